"""Tiny checkpoints in the layouts of LLaVA's, MSLoRA-CR's, CoIN's and MCITlib's code, and what their forwards compute."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tiny
import torch
from PIL import Image


LAYERS, HIDDEN, INNER, VISION, HEADS = 2, 48, 96, 32, 4
LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN, HIDDEN), "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}  # fmt: skip
MODULES = {f"layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in LINEAR.items()}
PICTURE = -200  # LLaVA's number for a picture


def tokenizer():
    """A tokenizer without a token for a picture and without padding, as LLaMA's."""
    from transformers import PreTrainedTokenizerFast

    inner = tiny.build_tokenizer().backend_tokenizer
    state = json.loads(inner.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in ("<image>", "<pad>")]
    vocabulary = state["model"]["vocab"]
    for name, other in (("<image>", "<spare0>"), ("<pad>", "<spare1>")):
        vocabulary[other] = vocabulary.pop(name)
    from tokenizers import Tokenizer

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def make_tower(folder: Path, seed: int = 3) -> Path:
    """A CLIP model with its image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(seed)
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    vision = {
        "hidden_size": VISION, "intermediate_size": 2 * VISION, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    return folder


def make_clip(folder: Path) -> Path:
    """A CLIP that reads questions, whose features of text and pictures have widths of their own."""
    from tokenizers import processors
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(4)
    words = tiny.build_tokenizer()
    words._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    shared = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    text = {"vocab_size": len(words), "hidden_size": 24, "max_position_embeddings": 77, **shared, **ends}
    vision = {"hidden_size": 16, "image_size": 16, "patch_size": 8, **shared}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def make_language(kind: str = "llama", seed: int = 1):
    """The language model alone."""
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    torch.manual_seed(seed)
    common = {
        "vocab_size": len(tokenizer()), "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "max_position_embeddings": 512, "bos_token_id": 1,
        "eos_token_id": 2, "tie_word_embeddings": False,
    }  # fmt: skip
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(**common, sliding_window=None)).eval()
    return LlamaForCausalLM(LlamaConfig(**common)).eval()


def make_projector(seed: int = 2):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(VISION, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, HIDDEN)
    ).eval()


def config(kind: str = "llama", **more):
    """``config.json`` as LLaVA's code writes it."""
    own = {
        "architectures": [f"Llava{kind.title()}ForCausalLM"], "model_type": f"llava_{kind}", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
        "vocab_size": len(tokenizer()), "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "torch_dtype": "float32",
        "mm_vision_tower": "/somewhere/else/clip", "mm_hidden_size": VISION, "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False, "image_aspect_ratio": "pad", "use_mm_proj": True, "transformers_version": "4.31.0",
    }  # fmt: skip
    if kind == "mistral":
        own["sliding_window"] = None
    return {**own, **more}


def state_of(language, projector):
    """Names as in LLaVA's checkpoints."""
    state = {name: value.detach().clone() for name, value in language.state_dict().items()}
    return state | {f"model.mm_projector.{n}": v.detach().clone() for n, v in projector.state_dict().items()}


def make_llava(folder: Path, kind: str = "llama", shards: int = 2, **more) -> Path:
    """An original LLaVA checkpoint in shards of PyTorch's pickles."""
    folder.mkdir(parents=True, exist_ok=True)
    state = state_of(make_language(kind), make_projector())
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)  # as older versions have saved it
    names = sorted(state)
    for i in range(shards):
        part = {name: state[name] for name in names[i::shards]}
        name = f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin" if shards > 1 else "pytorch_model.bin"
        torch.save(part, folder / name)
    (folder / "config.json").write_text(json.dumps(config(kind, **more)))
    tokenizer().save_pretrained(folder)
    return folder


def pictures(seed: int = 0, size=(24, 12)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3)).astype("uint8"))


def seen(picture, tower: Path, pad: bool = True):
    """Pixels as LLaVA's `process_images` makes them."""
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor.from_pretrained(tower)
    if pad:
        width, height = picture.size
        square = Image.new("RGB", (max(width, height),) * 2, tuple(int(x * 255) for x in processor.image_mean))
        square.paste(picture, ((square.width - width) // 2, (square.height - height) // 2))
        picture = square
    return processor.preprocess(picture, return_tensors="pt")["pixel_values"]


def their_logits(language, projector, tower: Path, ids, pixels, layer: int = -2):
    """LLaVA's forward: the patches of a layer of CLIP, projected, in the place of `PICTURE`."""
    from transformers import CLIPVisionModel

    vision = CLIPVisionModel.from_pretrained(tower).to(pixels.dtype).eval()
    with torch.no_grad():
        patches = vision(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]
        features = projector.to(pixels.dtype)(patches)
        embedded = language.get_input_embeddings()
        at = ids[0].tolist().index(PICTURE)
        parts = [embedded(ids[:, :at]), features, embedded(ids[:, at + 1 :])]
        return language(inputs_embeds=torch.cat(parts, dim=1)).logits


# --- what trainings leave


def factors(rank: int, seed: int):
    """Layer -> A and B, neither of them 0."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, (out, inside) in MODULES.items():
        found[name] = (
            torch.randn(rank, inside, generator=generator) * 0.1,
            torch.randn(out, rank, generator=generator) * 0.1,
        )
    return found


def projector_state(seed: int):
    """``non_lora_trainables.bin`` of LLaVA's trainer."""
    state = make_projector(seed).state_dict()
    return {f"base_model.model.model.mm_projector.{name}": value.clone() for name, value in state.items()}


def save_lora(folder: Path, made, rank: int, alpha: float, whole=None, **more) -> Path:
    """A folder of LLaVA's trainer with PEFT."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {}
    for name, (a, b) in made.items():
        state[f"base_model.model.model.{name}.lora_A.weight"] = a
        state[f"base_model.model.model.{name}.lora_B.weight"] = b
    torch.save(state, folder / "adapter_model.bin")
    about = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_dropout": 0.05,
    }
    (folder / "adapter_config.json").write_text(json.dumps({**about, **more}))
    if whole is not None:
        torch.save(whole, folder / "non_lora_trainables.bin")
    return folder


def save_experts(folder: Path, experts, routers, alpha: float, whole=None, kind="MOE_LORA_CoIN", **more) -> Path:
    """A folder of CoIN's or MCITlib's trainer: experts of each layer, one below the other."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {}
    for i, made in enumerate(experts):
        for name, (a, b) in made.items():
            state[f"base_model.model.model.{name}.lora_A.loraA.{i}.weight"] = a
            state[f"base_model.model.model.{name}.lora_B.loraB.{i}.weight"] = b
    for name, router in routers.items():
        state[f"base_model.model.model.{name}.lora_router.weight"] = router
    torch.save(state, folder / "adapter_model.bin")
    rank = sum(next(iter(made.values()))[0].shape[0] for made in experts)
    about = {"peft_type": kind, "r": rank, "lora_alpha": alpha, "bias": "none", "fan_in_fan_out": False}
    about |= {"expert_num": len(experts), "task_embedding_dim": 64}
    (folder / "adapter_config.json").write_text(json.dumps({**about, **more}))
    if whole is not None:
        torch.save(whole, folder / "non_lora_trainables.bin")
    return folder


def routers(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, inside, generator=generator) for name, (_, inside) in MODULES.items()}


def save_pool(folder: Path, made, number: int, rank: int, alpha: float, *, said: bool = True, more=None) -> Path:
    """A folder of MSLoRA-CR's trainer: the trainable LoRA of task ``number`` (from 0)."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {}
    for name, (a, b) in made.items():
        state[f"model.{name}.cl_lora_pool.task_{number}_lora.lora_A"] = a
        state[f"model.{name}.cl_lora_pool.task_{number}_lora.lora_B"] = b
    torch.save({**state, **(more or {})}, folder / "cl_lora.bin")
    if said:
        about = {"max_task": number + 1, "lora_rank": rank, "lora_alpha": alpha, "lora_dropout": 0.0}
        (folder / "config.json").write_text(json.dumps({"model_type": "llava_mistral", "mslora_cfg": about}))
    return folder


# --- what they compute


def language_of(model):
    """The decoder's layers, by the names of `MODULES`."""
    return dict(model.model.language_model.named_modules())


@contextmanager
def with_terms(model, terms):
    """Each layer's output plus ``terms[name](x)``, for a while."""
    modules = language_of(model)
    hooks = [
        modules[name].register_forward_hook(lambda module, args, output, term=term: output + term(args[0]))
        for name, term in terms.items()
    ]
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def with_projector(model, state):
    """Another projector, for a while; its names as in ``non_lora_trainables.bin``."""
    own = model.model.multi_modal_projector
    before = {name: value.clone() for name, value in own.state_dict().items()}
    names = {"0": "linear_1", "2": "linear_2"}
    new = {}
    for name, value in state.items():
        if ".mm_projector." in name:
            number, part = name.split(".mm_projector.")[1].split(".")
            new[f"{names[number]}.{part}"] = value
    own.load_state_dict(new)
    try:
        yield
    finally:
        own.load_state_dict(before)


def plain_term(made, name, scaling):
    a, b = made[name]
    return lambda x: scaling * (x.double() @ a.double().T @ b.double().T).to(x.dtype)


def lora_terms(several, scaling):
    """The sum of LoRAs: ``sum_i s B_i A_i x``."""
    return {
        name: (lambda x, name=name: sum(plain_term(made, name, scaling)(x) for made in several)) for name in MODULES
    }


def mixture_terms(experts, gates, scaling):
    """CoIN's layer: ``sum_i softmax(G x)_i s B_i A_i x`` for every token."""

    def term(name):
        def compute(x):
            weights = torch.softmax(x.double() @ gates[name].double().T, dim=-1)
            parts = [
                weights[..., i : i + 1] * plain_term(made, name, scaling)(x).double() for i, made in enumerate(experts)
            ]
            return sum(parts).to(x.dtype)

        return compute

    return {name: term(name) for name in MODULES}


def inputs(llava: Path):
    """Token ids with the place of one picture, and its pixels."""
    from transformers import AutoConfig

    picture = AutoConfig.from_pretrained(llava).image_token_index
    ids = torch.tensor([[1, *[picture] * 4, 20, 31, 42, 53, 64]])
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def load(llava: Path):
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(llava).float().eval()


def close(a, b, bound=1e-5):
    """Whether two tensors are equal up to rounding in fp32."""
    return float((a - b).abs().max()) <= bound * float(b.abs().max())


@contextmanager
def answering(root: Path, task: str, scratch: Path, after: str | None = None):
    """The model of an imported run that answers a task, rebuilt from its carry."""
    from cl_plugins.cli.hosts import quiet_host
    from cl_plugins.cli.looking import opened

    with quiet_host(), opened(root, scratch / "looked", task=after) as (state, carry):
        state.config.stream.task(task)
        yield state.answering(carry, task).eval()
