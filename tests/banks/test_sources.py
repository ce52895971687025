"""Which tensors are convolutions, in which order, and of which kind: the same from a module and from its files."""

import gc
import os
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from headstart.banks import FilterBank
from headstart.banks.source_filters import each_source
from headstart.bench.models.builders import resolve_model
from headstart.errors import HeadstartError, ModelError

EXPECTED = [("0", (3, 3), False, 0.0), ("2.0", (5, 5), True, 0.5), ("3", (3, 3), False, 1.0)]


def listed(models):
    ((_, convolutions),) = each_source(models)
    return [(c.name, c.kernel, c.depthwise, c.depth) for c in convolutions]


def weights_of(models):
    ((_, convolutions),) = each_source(models)
    return {c.name: c.weight for c in convolutions}


class TestForms:
    def test_module(self, net):
        assert listed([net()]) == EXPECTED
        assert listed(net()) == EXPECTED  # a single one needs no list

    def test_state_dict(self, net):
        assert listed([net().state_dict()]) == EXPECTED

    @pytest.mark.parametrize("nested", [None, "state_dict", "model_state_dict", "model"])
    def test_torch_file(self, net, tmp_path, nested):
        state = net().state_dict()
        torch.save({nested: state, "epoch": 3} if nested else state, tmp_path / "net.pt")
        assert listed(tmp_path / "net.pt") == EXPECTED
        assert listed([str(tmp_path / "net.pt")]) == EXPECTED

    def test_safetensors(self, net, tmp_path):
        save_file(net().state_dict(), str(tmp_path / "net.safetensors"))
        assert listed(tmp_path / "net.safetensors") == EXPECTED

    def test_prefix_of_a_data_parallel_wrapper(self, net, tmp_path):
        torch.save({f"module.{k}": v for k, v in net().state_dict().items()}, tmp_path / "net.pth")
        assert listed(tmp_path / "net.pth") == EXPECTED

    def test_folder_in_the_order_of_names(self, net, tmp_path):
        (tmp_path / "deep").mkdir()
        save_file(net(1).state_dict(), str(tmp_path / "deep" / "b.safetensors"))
        torch.save(net(0).state_dict(), tmp_path / "a.pt")
        (tmp_path / "readme.txt").write_text("not weights")
        assert [os.path.basename(label.strip("'")) for label, _ in each_source(tmp_path)] == ["a.pt", "b.safetensors"]

    def test_weights_are_those_of_the_module(self, net):
        model = net()
        for name, weight in weights_of(model).items():
            assert torch.equal(weight, model.get_submodule(name).weight)

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_one_to_three_dimensions(self, dims):
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        model = nn.Sequential(conv(2, 6, 3), conv(6, 6, 1), conv(6, 6, 2, groups=6))
        expected = [("0", (3,) * dims, False, 0.0), ("2", (2,) * dims, True, 1.0)]
        assert listed(model) == listed(model.state_dict()) == expected

    def test_transposed_weights_are_brought_to_one_layout(self):
        layer = nn.ConvTranspose2d(6, 4, 3, groups=2)
        assert weights_of(layer)[""].shape == (4, 3, 3, 3)

    def test_half_precision(self, net):
        bank = FilterBank.from_models([net().bfloat16()])
        assert bank.entries[0].centroids.dtype == torch.float32


class TestDepthwise:
    def test_grouped_is_not_depthwise(self):
        model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 16, 3, groups=8))
        assert [d for _, _, d, _ in listed(model)] == [False, True]
        assert [d for _, _, d, _ in listed(model.state_dict())] == [False, True]

    def test_first_layer_of_a_one_channel_net(self, net):
        assert listed(net(channels=1)) == listed(net(channels=1).state_dict()) == EXPECTED

    def test_a_pointwise_layer_before_makes_the_first_kernel_depthwise(self):
        model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4))
        assert listed(model) == listed(model.state_dict()) == [("1", (3, 3), True, 0.0)]

    def test_one_filter_is_dense(self):
        model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3))
        assert [d for _, _, d, _ in listed(model.state_dict())] == [False, False]


class TestOrderOfSafetensors:
    """Names come in alphabetical order; the order of layers is found again for common networks."""

    @pytest.mark.parametrize("name", ["resnet18", "cifar-resnet56", "mobilenet-v1", "mobilenet-v2", "flat"])
    def test_as_the_module(self, name, tmp_path):
        if name == "flat":
            model = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 4, 4, 3) for i in range(12)))
        else:
            model = resolve_model(f"headstart:{name}")(3, 10, (32, 32))
        save_file(model.state_dict(), str(tmp_path / "net.safetensors"))
        assert listed(tmp_path / "net.safetensors") == listed(model)
        assert listed(load_file(tmp_path / "net.safetensors")) == listed(model)

    def test_stem_behind_the_blocks_by_name(self):
        state = {f"blocks.{i}.dw.weight": torch.zeros(4, 1, 3, 3) for i in (0, 1, 10, 2)}
        state["stem.weight"] = torch.zeros(4, 3, 3, 3)
        names = [(name, dw) for name, _, dw, _ in listed(state)]
        assert names == [("stem", False), *((f"blocks.{i}.dw", True) for i in (0, 1, 2, 10))]


class TestParametrized:
    def test_weight_norm_in_both_forms(self):
        new = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
        with torch.no_grad():
            new.parametrizations.weight.original0.mul_(3)
        old = {
            "weight_g": new.parametrizations.weight.original0,
            "weight_v": new.parametrizations.weight.original1,
        }
        for source in (new, new.state_dict(), old):
            assert torch.allclose(weights_of([source])[""], new.weight, rtol=1e-5)

    def test_weight_norm_over_everything(self):
        layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3), dim=None)
        assert torch.allclose(weights_of([layer.state_dict()])[""], layer.weight, rtol=1e-5)

    def test_reading_spectral_norm_changes_nothing(self):
        layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)).train()
        before = {k: v.clone() for k, v in layer.state_dict().items()}
        found = weights_of(layer)[""]
        assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
        assert torch.allclose(found, layer.eval().weight)

    def test_other_forms_in_a_state_dict_are_refused(self):
        layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
        with pytest.raises(HeadstartError, match=r"parametrized.*Pass the module"):
            weights_of([layer.state_dict()])


class TestRefusals:
    def test_malicious_pickle_is_not_run(self, tmp_path):
        trace = tmp_path / "trace"

        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(trace),)

        torch.save({"conv.weight": Evil()}, tmp_path / "evil.pt")
        with pytest.raises(HeadstartError, match=r"evil\.pt' was refused"):
            FilterBank.from_models([tmp_path / "evil.pt"])
        assert not trace.exists()

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_truncated_files(self, net, tmp_path, suffix):
        path = tmp_path / f"net{suffix}"
        (save_file if suffix == ".safetensors" else torch.save)(net().state_dict(), str(path))
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(HeadstartError, match=r"net\.(pt|safetensors)"):
            FilterBank.from_models(path)

    def test_no_state_dict(self, tmp_path):
        torch.save([1, 2], tmp_path / "list.pt")
        with pytest.raises(HeadstartError, match="holds no state_dict"):
            FilterBank.from_models(tmp_path / "list.pt")

    def test_a_bank_is_not_weights(self, net, tmp_path):
        FilterBank.from_models(net()).save(tmp_path / "bank.safetensors")
        with pytest.raises(HeadstartError, match="is a filter bank, not weights"):
            FilterBank.from_models(tmp_path)

    def test_missing(self, tmp_path):
        with pytest.raises(HeadstartError, match="There is no checkpoint"):
            FilterBank.from_models(tmp_path / "none.pt")

    def test_empty(self, tmp_path):
        with pytest.raises(HeadstartError, match="no models"):
            FilterBank.from_models([])
        with pytest.raises(HeadstartError, match="has no weights"):
            FilterBank.from_models(tmp_path)

    def test_not_a_source(self):
        with pytest.raises(HeadstartError, match=r"models\[1\] is a int"):
            FilterBank.from_models(iter([nn.Conv2d(1, 2, 3), 3]))

    def test_nothing_to_cluster(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 4))
        with pytest.raises(HeadstartError, match=r"models\[0\].*no convolution with a kernel of more than one tap"):
            FilterBank.from_models(model)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite_name_file_and_layer(self, net, tmp_path, value):
        model = net()
        with torch.no_grad():
            model[3].weight[0, 0, 0, :2] = value
        torch.save(model.state_dict(), tmp_path / "sick.pt")
        with pytest.raises(HeadstartError, match=r"Layer '3' of '.*sick\.pt' has 2 weights that are not finite"):
            FilterBank.from_models(tmp_path / "sick.pt")
        assert len(FilterBank.from_models(tmp_path / "sick.pt", exclude="3")) == 2

    def test_integers(self):
        with pytest.raises(HeadstartError, match=r"Layer 'a' of models\[0\] holds torch\.int8"):
            FilterBank.from_models({"a.weight": torch.zeros(2, 2, 3, 3, dtype=torch.int8)})

    def test_no_filters(self):
        with pytest.raises(HeadstartError, match=r"holds torch\.float32 of \(0, 3, 3, 3\)"):
            FilterBank.from_models({"a.weight": torch.zeros(0, 3, 3, 3)})

    @pytest.mark.parametrize("kind", ["lazy", "meta"])
    def test_models_without_weights(self, kind):
        model = nn.LazyConv2d(4, 3) if kind == "lazy" else nn.Conv2d(3, 4, 3, device="meta")
        with pytest.raises(ModelError, match=kind):
            FilterBank.from_models(model)


def test_one_source_at_a_time(net):
    """When a source is asked for, the ones before the last are gone."""
    alive = []

    def states():
        for seed in range(6):
            gc.collect(0)
            assert sum(ref() is not None for ref in alive) <= 1
            state = net(seed).state_dict()
            alive.append(weakref.ref(state["0.weight"].untyped_storage()))
            yield state
            del state

    bank = FilterBank.from_models(states())
    assert int(bank.entries[0].sizes.sum()) == 6 * 12


def test_the_model_stays_as_it_was(net):
    model = net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    FilterBank.from_models(model, distance="magnitude")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
