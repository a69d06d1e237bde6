"""By a module of this name a package is known to be no placeholder (reference/dropin.py). Never imported."""
