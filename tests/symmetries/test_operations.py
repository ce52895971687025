"""Families of operations: names of several releases and backends, whichever torch is installed."""

import pytest

from headstart.symmetries.operations import family

# As torch 2.4 to 2.14, its backends and the libraries around it name them.
FAMILIES = {
    "attention": [
        "scaled_dot_product_attention",
        "_scaled_dot_product_attention_math",
        "_scaled_dot_product_attention_math_for_mps",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
        "_flash_attention_forward",
        "_efficient_attention_forward",
        "_native_multi_head_attention",
        "_flash_attn_forward",
        "_flash_attn_varlen_forward",
    ],
    "view": ["view", "_unsafe_view", "view_copy"],
    "reshape": ["reshape", "_reshape_alias", "_reshape_copy", "_reshape_alias_copy"],
    "alias": ["alias", "alias_copy"],
    "t": ["t", "t_", "t_copy"],
    "transpose": ["transpose", "transpose_", "transpose_copy"],
    "expand": ["expand", "expand_copy"],
    "unbind": ["unbind", "unbind_copy"],
    "split": ["split", "split_copy", "unsafe_split"],
    "split_with_sizes": ["split_with_sizes", "split_with_sizes_copy", "unsafe_split_with_sizes"],
    "channel_shuffle": ["channel_shuffle", "native_channel_shuffle"],
    "reflection_pad": ["reflection_pad1d", "reflection_pad2d", "reflection_pad3d"],
    "constant_pad": ["constant_pad_nd"],
    "clone": ["clone", "_lazy_clone"],
    "copy": ["copy", "copy_"],
    "index": ["index", "_unsafe_index"],
    "lift_fresh": ["lift_fresh", "lift_fresh_copy"],
    "gelu": ["gelu", "gelu_"],
    "silu": ["silu", "silu_"],
}
# Near in name, and another family: what only moves values must not be taken for what computes or overwrites.
OTHERS = {
    "index": ["index_put_", "index_copy", "index_copy_", "index_add", "index_fill_", "_index_put_impl_"],
    "copy": ["_to_copy", "copysign", "_copy_from"],
    "transpose": ["conv_transpose2d", "cudnn_convolution_transpose"],
    "view": ["view_as_complex", "_neg_view"],
    "tanh": ["atanh", "arctanh_", "tanh_backward"],
    "slice": ["slice_scatter"],
    "repeat": ["repeat_interleave"],
}


@pytest.mark.parametrize(("known", "name"), [(known, name) for known, names in FAMILIES.items() for name in names])
def test_an_operation_is_known_by_any_of_its_names(known, name):
    assert family(name) == known


@pytest.mark.parametrize(("known", "name"), [(known, name) for known, names in OTHERS.items() for name in names])
def test_a_neighbour_is_no_member(known, name):
    assert family(name) not in (known, "attention")


@pytest.mark.parametrize("name", ["_", "__", "t", "_copy", "add", "__and__"])
def test_a_name_of_nothing_but_affixes_stays_a_name(name):
    assert family(name)
