"""The demo: four small tasks cut from pictures inside wheels, and a tiny base model that can learn them."""
