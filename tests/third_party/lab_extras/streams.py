from importlib.resources import files


TWO_SITES = files("lab_extras") / "two_sites.yaml"
