"""placeholder"""
def qkv_cte():
    assert False
