# SPDX-License-Identifier: MIT
"""Other runtimes on the same weights; each in a process of its own, driven over a pipe by bench.py.

    python peers.py export DIR              DIR/full -> DIR/full.onnx, DIR/fused.onnx
    python peers.py WORKER DIR IN THREADS   WORKER is one of STARTERS

A worker prints a line that starts with "ready" when it is. Then every "run" line on stdin makes it
compute IN (float32 samples, normalised) once, and it answers with the seconds that this took;
"logits" makes it answer with the logits.
"""

import pathlib
import sys
import time

import numpy as np


def torch_model(directory):
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.Wav2Vec2ForSequenceClassification.from_pretrained(
        directory / "full", attn_implementation="sdpa"
    ).eval()
    # What any deployment does: the weight norm is folded once, not in every call.
    torch.nn.utils.parametrize.remove_parametrizations(
        model.wav2vec2.encoder.pos_conv_embed.conv, "weight"
    )
    return model


def export(directory):
    import torch

    class Logits(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x).logits

    path = directory / "full.onnx"
    with torch.inference_mode():
        program = torch.onnx.export(
            Logits(torch_model(directory)).eval(),
            (torch.randn(1, 80000),),
            dynamo=True,
            input_names=["x"],
            output_names=["logits"],
        )
    program.save(path, external_data=True)

    # ONNX Runtime's own offline fusions for transformers.
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(
        str(path), model_type="bert", num_heads=12, hidden_size=768, opt_level=0
    )
    fused.save_model_to_file(str(directory / "fused.onnx"), use_external_data_format=True)


def start_torch(directory, x, threads, compiled=False):
    import torch

    torch.set_num_threads(threads)
    model = torch_model(directory)
    x = torch.from_numpy(x)
    if compiled:
        import torch._inductor.config

        torch._inductor.config.freezing = True
        model = torch.compile(model)

    def run():
        with torch.inference_mode() if not compiled else torch.no_grad():
            return model(x).logits.numpy()

    return run


def start_ort(directory, x, threads, file="full.onnx"):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        directory / file, options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(["logits"], {"x": x})[0]


def start_openvino(directory, x, threads):
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(directory / "full.onnx"),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        },
    )
    request = compiled.create_infer_request()
    return lambda: request.infer({0: x})[0]


STARTERS = {
    "torch": start_torch,
    "compile": lambda *arguments: start_torch(*arguments, compiled=True),
    "ort": start_ort,
    "ort-fused": lambda *arguments: start_ort(*arguments, file="fused.onnx"),
    "openvino": start_openvino,
}


def main():
    if sys.argv[1] == "export":
        export(pathlib.Path(sys.argv[2]))
        return
    name, directory, source, threads = (
        sys.argv[1],
        pathlib.Path(sys.argv[2]),
        sys.argv[3],
        int(sys.argv[4]),
    )
    x = np.fromfile(source, np.float32)[None]
    run = STARTERS[name](directory, x, threads)
    run()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "run":
            begin = time.perf_counter()
            logits = run()
            print(f"{time.perf_counter() - begin:.6f}", flush=True)
        elif line.strip() == "logits":
            print(" ".join(f"{value:.9g}" for value in np.asarray(logits).ravel()), flush=True)


if __name__ == "__main__":
    main()
