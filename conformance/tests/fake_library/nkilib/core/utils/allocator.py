"""The constructor of the reference page; addresses are left to whoever places tiles without it."""


class SbufManager:
    def __init__(self, sb_lower_bound, sb_upper_bound, logger=None, use_auto_alloc=False, default_stack_alloc=True):
        assert 0 <= sb_lower_bound < sb_upper_bound
        self.use_auto_alloc = use_auto_alloc
