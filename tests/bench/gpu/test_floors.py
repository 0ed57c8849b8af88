# SPDX-License-Identifier: MIT
"""Tests of floors.py, kernels.py and resources.py. They need neither PyTorch nor a GPU."""

import collections
import pathlib
import re
import sys
import types
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import floors  # noqa: E402
import kernels  # noqa: E402
import resources  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SOURCES = HERE.parents[2] / "lib/ops/cuda"
LAYERS = 12

BASE = {
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "do_stable_layer_norm": False,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 12,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "classifier_proj_size": 256,
    "id2label": {str(i): str(i) for i in range(8)},
}

# Three samples a frame, two frames: small enough for counting on paper.
SMALL = {
    "conv_dim": [2, 4],
    "conv_kernel": [4, 3],
    "conv_stride": [2, 2],
    "conv_bias": True,
    "do_stable_layer_norm": True,
    "hidden_size": 6,
    "intermediate_size": 10,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_conv_pos_embeddings": 5,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 3,
    "id2label": {"0": "a", "1": "b"},
    "use_weighted_layer_sum": True,
}


def by_name(ops):
    return {op.name: op for op in ops}


class Floors(unittest.TestCase):
    def test_figures_of_base(self):
        """One clip of 5 s: GFLOP, to the digits that are known otherwise."""
        ops = by_name(floors.forward_ops(BASE, 80000, 1, 2))
        gflop = {name: op.flop / 1e9 for name, op in ops.items()}
        convolutions = gflop["wave_conv"] + sum(gflop[f"conv {i}"] for i in range(1, 7))
        layer = sum(gflop[name] for name in ("qkv", "attention", "out", "ffn 1", "ffn 2")) / LAYERS
        self.assertAlmostEqual(sum(gflop.values()), 71.66, 2)
        self.assertAlmostEqual(convolutions, 24.53, 2)
        self.assertAlmostEqual(gflop["conv 1"], 12.58, 2)
        self.assertAlmostEqual(gflop["pos_conv"], 2.35, 2)
        self.assertAlmostEqual(layer, 3.715, 3)
        self.assertAlmostEqual(ops["wave_conv"].bytes / 1e6, 16.7, 1)
        seconds = sum(op.flop for op in ops.values()) / 790e12
        self.assertAlmostEqual(seconds * 1e6, 90.7, 1)

    def test_small_by_hand(self):
        """13 samples: 5 frames of layer 0, 2 of layer 1. Two clips, values of 2 bytes."""
        ops = by_name(floors.forward_ops(SMALL, 13, 2, 2))
        expected = {  # flop, bytes, count
            "wave_conv": (2 * 10 * 8, 2 * 13 * 4 + (10 * 2 + 8 + 2) * 2, 1),
            "conv 1": (2 * 4 * 24, (10 * 2 + 4 * 4 + 24 + 4) * 2, 1),
            "feature_norm": (0, 4 * 4 * 2 * 2 + 2 * 4 * 4, 1),
            "projection": (2 * 4 * 24, (4 * 4 + 4 * 6 + 24 + 6) * 2, 1),
            "pos_conv": (2 * 4 * 6 * 15, (2 * 4 * 6 + 6 * 15 + 6) * 2, 1),
            "encoder_norm": (0, 4 * 6 * 2 * 2 + 2 * 6 * 4, 1),
            "qkv": (3 * 2 * 4 * 108, 3 * (4 * 24 + 108 + 18) * 2, 3),
            "attention": (3 * 4 * 4 * 2 * 6, 3 * 4 * 24 * 2, 3),
            "out": (3 * 2 * 4 * 36, 3 * (4 * 12 + 36 + 6) * 2, 3),
            "residual_norm": (0, 6 * (4 * 6 * 4 * 2 + 2 * 6 * 4), 6),
            "ffn 1": (3 * 2 * 4 * 60, 3 * (4 * 16 + 60 + 10) * 2, 3),
            "ffn 2": (3 * 2 * 4 * 60, 3 * (4 * 16 + 60 + 6) * 2, 3),
            "layer_mix": (0, 4 * 6 * (4 * 2 + 4), 4),
            "attn_pool": (0, 4 * 6 * 4 + 2 * 6 * 4, 1),
            "classifier": (2 * 2 * 24, (24 + 5 + 2 * (6 + 6 + 2)) * 4, 1),
        }
        found = {name: (op.flop, op.bytes, op.count) for name, op in ops.items()}
        self.assertEqual(found, expected)
        self.assertEqual(list(found), list(expected))

    def test_weights_once_a_batch(self):
        one, two, three = (
            by_name(floors.forward_ops(BASE, 80000, batch, 2))["ffn 1"] for batch in (1, 2, 3)
        )
        self.assertEqual(three.bytes - two.bytes, two.bytes - one.bytes)
        self.assertEqual(2 * one.bytes - two.bytes, LAYERS * (768 + 1) * 3072 * 2)
        self.assertEqual(two.flop, 2 * one.flop)

    def test_floor(self):
        peak = floors.Peak(tflops=100, bandwidth=2)
        self.assertAlmostEqual(floors.floor_seconds(floors.Op("a", 5e12, 2e9), peak), 0.05)
        self.assertAlmostEqual(floors.floor_seconds(floors.Op("b", 5e12, 2e11), peak), 0.1)

    def test_training_figures_of_base(self):
        """Against figures found otherwise: 47.13 GFLOP of a clip behind the convolutions (71.66
        less 24.53), twice that backward, and a product more of attention (five for two). Of
        PyTorch's 94,570,632 parameters, with 8 labels and a projector of 256, 4,200,448 are those
        of the convolutions and 768 the vector for masked frames."""
        for batch, cached, milliseconds in (8, True, 1.43), (32, True, 5.73), (32, False, 6.72):
            ops = floors.training_ops(BASE, 80000, batch, 2, cached)
            attention = by_name(ops)["attention"].flop
            flop = sum(op.flop for op in ops) - attention / 2
            self.assertAlmostEqual(flop / 790e12 * 1e3, milliseconds, 2)
        count = floors.parameters(floors.Shape(BASE, 80000, 1, 2))
        self.assertEqual(count, 90369416)
        self.assertEqual(by_name(ops)["adamw"].bytes, 30 * count)
        exact = by_name(floors.training_ops(BASE, 80000, 1, 4, True))["adamw"]
        self.assertEqual(exact.bytes, 28 * count)

    def test_training_small_by_hand(self):
        """Two clips of two frames: 4 rows of 6, 10 inner; pre-norm; values of 2 bytes."""
        ops = by_name(floors.training_ops(SMALL, 13, 2, 2, True))
        row, rows = 6 * 2, 4
        expected = {  # flop, bytes, count
            "gather": (0, rows * 4 * 2 * 2, 1),
            "residual_norm": (0, 6 * (rows * row * 4 + rows * 8 + 2 * 6 * 4), 6),
            "attention": (3 * 4 * 4 * 2 * 6, 3 * (4 * 4 * 12 + 4 * 2 * 4), 3),
            "attention_bwd": (3 * 10 * 4 * 2 * 6, 3 * (8 * 4 * 12 + 4 * 2 * 4), 3),
            "residual_norm_bwd": (0, 6 * (rows * row * 5 + rows * 8 + 3 * 6 * 4), 6),
            "ffn_gelu_bwd": (0, 3 * 4 * rows * 10 * 2, 3),
            "ffn 1 db": (0, 3 * (rows * 10 * 2 + 10 * 4), 3),
            "ffn 1 dw": (3 * 2 * 4 * 60, 3 * (rows * 16 * 2 + 60 * 4), 3),
            "ffn 1 dx": (3 * 2 * 4 * 60, 3 * (rows * 16 * 2 + 60 * 2), 3),
            "pos_conv dw": (2 * 4 * 90, 2 * rows * row + 90 * 4, 1),
            "pos_conv dx": (2 * 4 * 90, 3 * rows * row + 90 * 2, 1),
            "weight_norm_bwd": (0, 3 * 90 * 4, 1),
        }
        found = {name: (ops[name].flop, ops[name].bytes, ops[name].count) for name in expected}
        self.assertEqual(found, expected)
        self.assertNotIn("residual_add", ops)
        self.assertNotIn("conv 1", ops)
        # norms 8 + 12; projection 30; positions 90 + 5 + 6; mix 4; head 21 + 8
        block = 6 * 18 + 18 + 36 + 6 + 60 + 10 + 60 + 6 + 24
        self.assertEqual(
            floors.parameters(floors.Shape(SMALL, 13, 2, 2)), 184 + 3 * block
        )
        with_convolutions = by_name(floors.training_ops(SMALL, 13, 2, 2, False))
        self.assertEqual(
            with_convolutions["conv 1"], by_name(floors.forward_ops(SMALL, 13, 2, 2))["conv 1"]
        )

    def test_bad_input(self):
        with self.assertRaisesRegex(ValueError, "'conv_kernel'"):
            floors.forward_ops({"conv_dim": [1]}, 80000, 1, 2)
        with self.assertRaisesRegex(ValueError, "399 samples"):
            floors.forward_ops(BASE, 399, 1, 2)
        floors.forward_ops(BASE, 400, 1, 2)


def kernels_of(source):
    """Names of the __global__ functions of a file."""
    return re.findall(
        r"__global__\s+void\s+(?:__launch_bounds__\s*\([^{;]*?\)\s+)?(\w+)\s*\(", source
    )


def launches(kind="bf16", file="launches.txt"):
    """Those that were recorded in this type."""
    text = (HERE / file).read_text(encoding="utf-8")
    return text.partition(f"\n[{kind}]\n")[2].partition("\n[")[0].splitlines()


PRODUCT = "nvjet_tst_128x64_64x8_4x1_v_bz_TNT"
SPLIT = "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float>(int)"
FUSED = "cudnn_generated_fort_native_sm90_fprop_engine_5_k2_s2"


def on_a_card(names):
    """As CUPTI names what was recorded in the emulation."""
    return [PRODUCT if name.startswith("product_") else name.split(", grid")[0] for name in names]


class Kernels(unittest.TestCase):
    def test_every_kernel_is_claimed(self):
        found = collections.Counter()
        for path in sorted([*SOURCES.glob("*.cu"), *SOURCES.glob("*.cuh")]):
            source = path.read_text(encoding="utf-8")
            names = kernels_of(source)
            self.assertEqual(len(names), source.count("__global__"), f"{path}: a kernel's name")
            found.update(names)
        self.assertEqual(sorted(set(found) - set(kernels.KERNELS)), [], "kernels without an op")
        self.assertEqual(sorted(set(kernels.KERNELS) - set(found)), [], "ops without their kernel")
        self.assertEqual([name for name, count in found.items() if count > 1], [], "named alike")

    def test_base_name(self):
        for name, expected in {
            "void (anonymous namespace)::attention_mma<64, 2>((anonymous namespace)::attention_pro"
            "blem<__nv_bfloat16>)": "attention_mma",
            "wave_fold_clips(wave_fold)": "wave_fold_clips",
            "void zero_kernel<uint4>(uint4*, ser_rows, long)": "zero_kernel",
            "void at::native::dropout<float>(float*)": None,
            "void at::native::(anonymous namespace)::gather<float>(float*)": None,
            PRODUCT: PRODUCT,
            "Memset (Device)": None,
        }.items():
            self.assertEqual(kernels.base_name(name), expected)

    def test_recorded_pass(self):
        """A pass of wav2vec2-base, one clip, bf16, as libser launches it."""
        ops = collections.Counter(kernels.attribute(on_a_card(launches())))
        self.assertEqual(len(launches()), 123)
        expected = {"copy in": 1, "wave_conv": 3, "feature_norm": 1, "projection": 1}
        expected |= {f"conv {i}": 2 for i in range(1, 7)}
        expected |= {"pos_conv": 2, "encoder_norm": 1, "attn_pool": 2, "classifier": 3}
        expected |= {"qkv": LAYERS, "attention": LAYERS, "out": LAYERS, "ffn 2": LAYERS}
        expected |= {"ffn 1": 2 * LAYERS, "residual_norm": 2 * LAYERS, "copy out": 1}
        self.assertEqual(dict(ops), expected)
        expected["pos_conv"] = 1  # f32: the taps are not shared out
        ops = collections.Counter(kernels.attribute(on_a_card(launches("f32"))))
        self.assertEqual(dict(ops), expected)

    def test_recorded_step(self):
        """A training step of wav2vec2-base on cached features, as libser launches it."""
        names = launches(file="launches_training.txt")
        ops = collections.Counter(kernels.attribute(on_a_card(names)))
        expected = dict.fromkeys(
            "gather feature_norm projection projection_dropout span_mask pos_conv encoder_norm "
            "start_dropout attn_pool_bwd start_dropout_bwd span_mask_bwd projection_dropout_bwd "
            "adamw clear".split(), 1
        )  # fmt: skip
        expected |= {"attn_pool": 2, "classifier": 4, "classifier_bwd": 14, "sum_squares": 3}
        expected |= {"pos_conv dz": 1, "pos_conv db": 2, "pos_conv dw": 2, "pos_conv dx": 2}
        expected |= {"encoder_norm_bwd": 2, "feature_norm_bwd": 2, "weight_norm_bwd": 2}
        expected |= {"projection db": 2, "projection dw": 3, "projection dx": 1, "weight_norm": 2}
        expected |= dict.fromkeys("attention ffn_gelu".split(), LAYERS)
        expected |= {"ffn_gelu again": LAYERS, "ffn_gelu_bwd": LAYERS, "attention_bwd": 2 * LAYERS}
        expected |= {"residual_norm": 2 * LAYERS, "residual_norm_bwd": 4 * LAYERS}
        expected |= {"residual_add": 2 * LAYERS}
        for layer in "qkv", "out", "ffn 1", "ffn 2":  # db in two kernels, dw with two that clear
            expected |= {layer: LAYERS, f"{layer} db": 2 * LAYERS}
            expected |= {f"{layer} dw": 3 * LAYERS, f"{layer} dx": LAYERS}
        self.assertEqual(dict(ops), expected)

    def test_gelu_made_with_its_gradient(self):
        """The recorded step in the order of one without a kernel of its own for the former."""
        names = launches(file="launches_training.txt")
        expected = collections.Counter(kernels.attribute(on_a_card(names)))
        del expected["ffn_gelu again"]
        loss = next(i for i, name in enumerate(names) if "cross_entropy_bwd" in name)
        for _ in range(LAYERS):
            behind = range(loss, len(names))
            again = next(i for i in behind if "dropout<__nv_bfloat16, 1>" in names[i])
            both = next(i for i in behind if i > again and "dropout_bwd" in names[i])
            self.assertTrue(names[both - 1].startswith("product_"))
            names[again : both + 1] = names[both - 1 : both + 1] + names[again + 1 : both - 1]
        ops = kernels.attribute(on_a_card(names))
        self.assertEqual(collections.Counter(ops), expected)
        first = ops.index("ffn_gelu_bwd")
        wanted = ["ffn 2 dx", "ffn_gelu_bwd"] + ["ffn 2 db"] * 2 + ["ffn 2 dw"] * 3
        wanted += ["ffn 1 db"] * 2 + ["ffn 1 dw"] * 3 + ["ffn 1 dx"]
        self.assertEqual(ops[first - 1 : first - 1 + len(wanted)], wanted)

    def test_products_of_a_step(self):
        """Shapes tell what a recorded product is: dw has the rows of the batch inside, the others
        have them in front, and of those dx has what the layer takes for its outputs."""
        names = launches(file="launches_training.txt")
        sizes = {"qkv": (768, 2304), "out": (768, 768), "ffn 1": (768, 3072), "ffn 2": (3072, 768)}
        sizes["projection"] = (512, 768)
        found = collections.Counter()
        for name, op in zip(names, kernels.attribute(on_a_card(names)), strict=True):
            layer, _, kind = op.rpartition(" ") if op[-3:] in (" dw", " dx") else (op, "", "")
            if name.startswith("product_") and layer in sizes:
                inputs, outputs = sizes[layer]
                shape = {"": (8000, outputs, inputs), "dw": (outputs, inputs, 8000),
                         "dx": (8000, inputs, outputs)}[kind]  # fmt: skip
                self.assertEqual(name, "product_bf16_{}x{}x{}".format(*shape))
                found[kind] += 1
        self.assertEqual(found, dict.fromkeys(("", "dw", "dx"), 4 * LAYERS + 1))

    def test_names_of_a_step_are_those_of_the_floors(self):
        ops = set(kernels.attribute(on_a_card(launches(file="launches_training.txt"))))
        known = by_name(floors.training_ops(BASE, 80000, 32, 2, True))
        self.assertEqual(ops - {"clear", "ffn_gelu again"}, set(known))

    def test_step_without_clears_and_sums(self):
        """Gradients keep their names where libser has fewer kernels around the products, and where
        a product is several kernels."""
        kept, ops, names = [], [], on_a_card(launches(file="launches_training.txt"))
        for name, op in zip(names, kernels.attribute(names), strict=True):
            if kernels.base_name(name) not in ("zero_kernel", "partial_sums", "add_partials"):
                parts = [name, SPLIT] if name == PRODUCT else [name]
                kept += parts
                ops += [op] * len(parts)
        self.assertEqual(kernels.attribute(kept), ops)

    def test_names_are_those_of_the_floors(self):
        ops = set(kernels.attribute(on_a_card(launches()))) - {"copy in", "copy out"}
        self.assertEqual(ops, set(by_name(floors.forward_ops(BASE, 80000, 1, 2))))

    def test_products_in_parts(self):
        """Several kernels for one product, or a fill before it, change nothing."""
        names, ops = [], []
        for name, op in zip(
            on_a_card(launches()), kernels.attribute(on_a_card(launches())), strict=True
        ):
            parts = ["Memset (Device)", PRODUCT, SPLIT] if name == PRODUCT else [name]
            names += parts
            ops += [op] * len(parts)
        self.assertEqual(kernels.attribute(names), ops)

    def test_plain_products(self):
        """libser's own stand-in is attributed like the library's."""
        plain = "void (anonymous namespace)::product_plain<float, float>(int)"
        names = on_a_card(launches())
        replaced = [plain if name == PRODUCT else name for name in names]
        self.assertEqual(kernels.attribute(replaced), kernels.attribute(names))

    def test_fused_convolution(self):
        tail = "void gelu_kernel<__nv_bfloat16>(int, int)"
        zero = "void zero_kernel<uint4>(uint4*, ser_rows, long)"
        norm = "void norm_in_registers<__nv_bfloat16, 2>(int)"
        pos = "void pos_conv_tensor<(direction)0, 48, 4>(int)"
        wave = "void wave_convolve<__nv_bfloat16, 1, 8>(int)"
        names = [wave, FUSED, FUSED, zero, FUSED, zero, PRODUCT, tail, norm, PRODUCT, pos]
        expected = ["wave_conv"] + ["conv 1"] * 3 + ["conv 2"] * 2 + ["conv 3"] * 2
        expected += ["feature_norm", "projection", "pos_conv"]
        self.assertEqual(kernels.attribute(names), expected)
        names = [wave, FUSED, zero, FUSED, FUSED, norm]
        expected = ["wave_conv", "conv 1", "conv 1"] + ["conv 2 and on"] * 2 + ["feature_norm"]
        self.assertEqual(kernels.attribute(names), expected)

    def test_fused_feed_forward(self):
        """The activation inside the first product: no kernel of libser between the two."""
        norm = "norm_in_registers(int)"
        attention = "attention_mma(int)"
        names = ["pos_conv_tensor(int)", norm]
        names += [PRODUCT, attention, PRODUCT, norm, FUSED, PRODUCT, SPLIT, norm] * 2
        names += [PRODUCT, attention, PRODUCT, norm, PRODUCT, SPLIT, PRODUCT, norm]
        names += [PRODUCT, attention, PRODUCT, norm, "Memset (Device)"]
        names += [FUSED, FUSED, FUSED, PRODUCT, SPLIT, norm]
        expected = ["pos_conv", "encoder_norm"]
        layer = ["qkv", "attention", "out", "residual_norm", "ffn 1", "ffn 2", "ffn 2"]
        expected += (layer + ["residual_norm"]) * 2
        expected += layer[:5] + ["ffn 1", "ffn 2", "residual_norm"]
        expected += layer[:5] + ["ffn 1"] * 3 + ["ffn 2"] * 2 + ["residual_norm"]
        self.assertEqual(kernels.attribute(names), expected)

    def test_gelu_product(self):
        """One kernel of libser's for the product and the GELU."""
        space = "(anonymous namespace)::"
        own = f"void {space}gelu_product<{space}tiling<64, 96> >(int)"
        norm, attention = "norm_in_registers(int)", "attention_mma(int)"
        tail = "void gelu_kernel<__nv_bfloat16>(int, int)"
        names = ["void wave_convolve<__nv_bfloat16, 1, 8>(int)", own, PRODUCT, tail, own, norm]
        names += [PRODUCT, "pos_conv_tensor(int)", norm]
        names += [PRODUCT, attention, PRODUCT, norm, own, PRODUCT, SPLIT, norm] * 2
        expected = ["wave_conv", "conv 1", "conv 2", "conv 2", "conv 3", "feature_norm"]
        expected += ["projection", "pos_conv", "encoder_norm"]
        layer = ["qkv", "attention", "out", "residual_norm", "ffn 1", "ffn 2", "ffn 2"]
        expected += (layer + ["residual_norm"]) * 2
        self.assertEqual(kernels.attribute(names), expected)

    def test_attention_pooling_and_mix(self):
        """The score's hidden layer is not the block's; the mix stands between blocks."""
        norm, mix = "norm_in_registers(int)", "layer_mix<float, float>(int)"
        activate = "void activate_kernel<__nv_bfloat16, 3>(int)"
        names = ["pos_conv_tensor(int)", norm, mix, PRODUCT, "attention_mma(int)", PRODUCT, norm]
        names += [PRODUCT, activate, PRODUCT, norm, mix, PRODUCT, activate]
        names += ["pool_weights(int)", "weighted_sum(int)", PRODUCT, activate, PRODUCT]
        names += ["cross_entropy(int)"]
        expected = ["pos_conv", "encoder_norm", "layer_mix", "qkv", "attention", "out"]
        expected += ["residual_norm", "ffn 1", "ffn 1", "ffn 2", "residual_norm", "layer_mix"]
        expected += ["attn_pool"] * 4 + ["classifier"] * 4
        self.assertEqual(kernels.attribute(names), expected)

    def test_unknown(self):
        foreign = "void at::native::elementwise_kernel<128>(int)"
        names = [PRODUCT, "wave_convolve(int)", foreign]
        expected = [f"other: {PRODUCT}", "wave_conv", f"other: {foreign}"]
        self.assertEqual(kernels.attribute(names), expected)
        self.assertEqual(kernels.attribute(["adamw(int)", PRODUCT, "gather(int)"])[::2],
                         ["adamw", "gather"])  # fmt: skip


def event(name, category, start, duration):
    return {"ph": "X", "name": name, "cat": category, "ts": start, "dur": duration}


def trace_of(runs):
    """[(start of the host's range, [(kernel, start, duration)])]"""
    events = [{"ph": "M", "name": "process_name", "ts": 0}]
    for start, activities in runs:
        events.append(event(kernels.RUN, "user_annotation", start, 100))
        events.append(event(kernels.RUN, "gpu_user_annotation", start - 50, 150))
        for name, at, duration in activities:
            category = "gpu_memcpy" if name.startswith("Memcpy") else "kernel"
            events.append(event(name, category, at, duration))
    return {"traceEvents": events}


class Traces(unittest.TestCase):
    def test_times_and_spans(self):
        tail = "void (anonymous namespace)::gelu_kernel<float>(int, int)"
        trace = trace_of([
            (1000, [(tail, 1030, 2.5), ("wave_convolve(wave_pass)", 1010, 5), (PRODUCT, 1016, 8),
                    ("Memcpy DtoH (Device -> Pinned)", 1040, 1)]),
            (2000, [("wave_convolve(wave_pass)", 2010, 7), (PRODUCT, 2018, 10), (tail, 2030, 2.5),
                    ("Memcpy DtoH (Device -> Pinned)", 2040, 3)]),
        ])  # fmt: skip
        runs = kernels.runs_of(trace)
        self.assertEqual(
            kernels.op_times(runs), {"wave_conv": 6.0, "conv 1": 11.5, "copy out": 2.0}
        )
        for span, expected in zip(kernels.spans(runs), [31e-6, 33e-6], strict=True):
            self.assertAlmostEqual(span, expected, 12)

    def test_nothing_on_the_device(self):
        for trace in ({"traceEvents": []}, trace_of([(0, [("adamw(int)", 1, 1)]), (200, [])])):
            with self.assertRaisesRegex(RuntimeError, "CUPTI"):
                kernels.runs_of(trace)

    def test_without_cuda(self):
        torch = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False))
        with mock.patch.dict(sys.modules, torch=torch):
            self.assertIsNone(kernels.profile_ops(lambda: None, 3))
            self.assertIsNone(kernels.device_span(lambda: None, 3))


class Log(unittest.TestCase):
    LINES = """\
copy 64 bytes, host to device
launch kernel (no symbol) in m.so + 0x10, grid 1 1 1, block 2 1 1, shared 0
product 1 2 3, entries 1, f32
fill 1000 bytes
launch kernel (no symbol) in m.so + 0x30, grid 1 1 1, block 64 1 1, shared 0
recorded copy 64 bytes, host to device
recorded launch kernel (no symbol) in m.so + 0x20, grid 4 5 6, block 7 1 1, shared 80
product 250 2304 768, entries 2, bf16
recorded fill 1000 bytes
recorded launch kernel (no symbol) in m.so + 0x30, grid 1 1 1, block 64 1 1, shared 0
recorded fill 12 bytes
recorded copy 8 bytes, device to host
graph of 6 nodes
"""

    def read(self, recorded):
        def name(places):
            return {place: f"kernel_{place[1]}(int)" for place in places}

        with mock.patch.object(kernels, "kernel_names", name):
            return kernels.read_log(self.LINES.splitlines(), recorded)

    def test_recorded(self):
        expected = [
            "Memcpy HtoD, 64 bytes",
            "kernel_0x20(int), grid 4 5 6, block 7 1 1, shared 80",
            "product_bf16_250x2304x768x2",
            "Memset (Device), 12 bytes",
            "Memcpy DtoH, 8 bytes",
        ]
        self.assertEqual(self.read(True), expected)

    def test_all(self):
        launches = self.read(False)
        self.assertEqual(len(launches), 8)
        self.assertEqual(launches[1:3], ["kernel_0x10(int), grid 1 1 1, block 2 1 1, shared 0",
                                         "product_f32_1x2x3"])  # fmt: skip


ADAMW = "_ZN40_GLOBAL__N__a42135e0_8_adamw_cu_3433b48d5adamwENS_9optimiserE"
MMA = (
    "_ZN45_GLOBAL__N__b4198183_12_attention_cu_3248d34513attention_mmaILi64ELi2EEEvNS_17attention"
    "_problemI13__nv_bfloat16EE"
)
FOLD = "_Z15wave_fold_clips9wave_fold"
USAGE = f"""
Fatbin elf code:
================
arch = sm_80
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function {ADAMW}:
  REG:47 STACK:0 SHARED:5 LOCAL:0 CONSTANT[0]:464 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90a

Resource usage:
 Common:
  GLOBAL:0
 Function {ADAMW}:
  REG:48 STACK:0 SHARED:1029 LOCAL:0 CONSTANT[0]:640 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function {MMA}:
  REG:240 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:608 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function {FOLD}:
  REG:40 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:608 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
ELF = f"""
    9    c1c     68  0  4                    CUDA_INFO       40    3        d .nv.info.{ADAMW}
.nv.info.{ADAMW}
\t<0x7>
\tAttribute:\tEIATTR_EXIT_INSTR_OFFSETS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x580 0x5f0 0x2660
\t<0x8>
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x40 0x2 0x2
.nv.callgraph
\tAttribute:\tEIATTR_MAX_THREADS
\tValue:\t0x1 0x1 0x1
.nv.info.{FOLD}
\tAttribute:\tEIATTR_CRS_STACK_SIZE
\tValue:\t0x0
"""


class Resources(unittest.TestCase):
    def test_parse(self):
        usages = resources.parse_usage(USAGE)
        self.assertEqual(usages["80"], {ADAMW: resources.Usage(47, 0, 5, 0)})
        self.assertEqual(
            usages["90a"],
            {
                ADAMW: resources.Usage(48, 0, 5, 0),
                MMA: resources.Usage(240, 16, 0, 0),
                FOLD: resources.Usage(40, 0, 0, 0),
            },
        )
        self.assertEqual(resources.parse_threads(ELF.splitlines()), {ADAMW: 256})

    def test_identity(self):
        for name, expected in {
            "void (anonymous namespace)::pos_conv_tensor<((anonymous namespace)::direction)0, 48, "
            "4>(int)": "pos_conv_tensor<(direction)0, 48, 4>",
            "wave_fold_clips(wave_fold)": "wave_fold_clips",
            "(anonymous namespace)::adamw": "adamw",
        }.items():
            self.assertEqual(resources.identity(name), expected)

    def test_resident_blocks(self):
        """Limits counted by hand, each by one of them."""
        hopper = resources.multiprocessor_of("90a")
        for registers, threads, static, dynamic, expected in [
            (32, 1024, 0, 0, (2, "warps")),
            (16, 32, 0, 0, (32, "blocks")),
            (240, 128, 0, 0, (2, "registers")),  # 7680 a warp, 2 for each of 4 schedulers
            (168, 128, 0, 0, (3, "registers")),  # 5376 a warp
            (40, 160, 0, 0, (9, "registers")),  # 12 warps of 1280 for each scheduler
            (41, 256, 0, 0, (5, "registers")),  # 1312, rounded up to 1536: 10 for each
            (40, 128, 0, 75 << 10, (3, "shared")),  # 76 KiB each, 228 there are
            (40, 128, 1, 75 << 10, (2, "shared")),
            (16, 128, 0, 45666, (4, "shared")),  # five of 46690 would do, of 46720 not
        ]:
            usage = resources.Usage(registers, 0, static, 0)
            found = resources.resident_blocks(usage, resources.Launch(threads, dynamic), hopper)
            self.assertEqual(found, expected)
        self.assertIsNone(resources.resident_blocks(usage, resources.Launch(None, 0), hopper))
        with self.assertRaisesRegex(ValueError, "sm_70"):
            resources.multiprocessor_of("70")

    def test_report(self):
        usages = resources.parse_usage(USAGE)["90a"]
        names = {
            ADAMW: "(anonymous namespace)::adamw((anonymous namespace)::optimiser)",
            MMA: "void (anonymous namespace)::attention_mma<64, 2>((anonymous namespace)::attention"
            "_problem<__nv_bfloat16>)",
            FOLD: "wave_fold_clips(wave_fold)",
        }
        recorded = "void attention_mma<64, 2>(int), grid 9 1 1, block 128 1 1, shared"
        known = resources.parse_launches([f"{recorded} 80000", f"{recorded} 20", "product_f32_1x2"])
        multiprocessor = resources.multiprocessor_of("90a")
        rows = resources.rows_of(usages, {ADAMW: 256}, names, known, multiprocessor)
        self.assertEqual(rows[1][3], resources.Launch(128, 80000))
        self.assertEqual([(row[0], row[4]) for row in rows],
                         [("adamw", 5), ("attention", 2), ("wave_conv", None)])  # fmt: skip
        lines, spilling = resources.report(rows, multiprocessor)
        self.assertEqual(len(lines), 5)
        self.assertIn("threads unknown", lines[3])
        self.assertIn("fewest warps: 8 of 64 in attention_mma<64, 2>", lines[4])
        self.assertEqual(spilling, ["attention_mma<64, 2>: 16 bytes of stack, 0 of local memory"])


if __name__ == "__main__":
    unittest.main()
