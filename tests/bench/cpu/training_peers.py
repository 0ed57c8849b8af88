# SPDX-License-Identifier: MIT
"""PyTorch training on libser's model files, in a process of its own; see bench_training.py.

    python training_peers.py prepare KIND DIR     KIND is base or tiny; a random backbone in DIR
    python training_peers.py PEER BACKBONE MODEL CLIPS COUNT THREADS DROPOUTS

PEER is torch, eager (attention as transformers writes it out, no SDPA) or compile; the rest is as
for bench_training.c, BACKBONE and MODEL being what went into its "create" and what came out. A
worker prints a line that starts with "ready" when it is. Then every "step" line on stdin is
answered with a line of JSON, the same as the C program's; "threads N" changes their number.
"""

import json
import pathlib
import re
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "golden"))

import ser_mini
from golden_models import Head
from make_golden import make_model, save_directory
from training_golden import read_ser

LABELS = 8
# As in bench_training.c; the betas and epsilon of both are PyTorch's defaults.
RATE, DECAY, CLIP_NORM = 1e-4, 0.01, 1.0

TINY = {
    "conv_dim": [32] * 7,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def prepare(kind, directory):
    """wav2vec2-base by default: 94.6 M parameters with the head that libser puts on it."""
    config = transformers.Wav2Vec2Config(**(TINY if kind == "tiny" else {}))
    save_directory(make_model(transformers.Wav2Vec2Model, config, 14), directory)


class Wav2Vec2(Head):
    """From cached outputs of the frozen convolutions on."""

    def __init__(self, config, name, backbone, dropouts):
        projection, hidden, attention, classifier = dropouts
        backbone_config = transformers.Wav2Vec2Config.from_pretrained(
            backbone,
            attn_implementation="eager" if name == "eager" else "sdpa",
            feat_proj_dropout=projection,
            hidden_dropout=hidden,
            attention_dropout=attention,
            activation_dropout=0.0,
            layerdrop=0.0,
            apply_spec_augment=False,
        )
        super().__init__(transformers.Wav2Vec2Model(backbone_config), config)
        self.activation = ser_mini.ACTIVATIONS[config["classifier"]["activation"]]
        self.dropout = torch.nn.Dropout(classifier)

    def load(self, tensors):
        renamed = {
            name.replace("weight_g", "parametrizations.weight.original0").replace(
                "weight_v", "parametrizations.weight.original1"
            ): value
            for name, value in tensors.items()
        }
        missing = self.load_state_dict(renamed, strict=False)
        assert set(missing.missing_keys) <= {"wav2vec2.masked_spec_embed"}, missing
        assert not missing.unexpected_keys, missing
        self.wav2vec2.freeze_feature_encoder()
        self.wav2vec2.masked_spec_embed.requires_grad_(False)

    def features(self, clips):
        """One clip at a time, which keeps the peak of memory to training."""
        extract = self.wav2vec2.feature_extractor
        with torch.no_grad():
            rows = [extract(ser_mini.normalize(x)[None]).transpose(1, 2) for x in clips]
        return torch.cat(rows)

    def forward(self, features):
        x, _ = self.wav2vec2.feature_projection(features)
        x = self.wav2vec2.encoder(x).last_hidden_state
        x, _ = self.pooling(x, torch.ones_like(x[:, :, :1]))
        for i, layer in enumerate(self.classifier):
            x = layer(self.dropout(self.activation(x)) if i > 0 else x)
        return x


def fused_attention(self, x, mask):
    """ser_mini.Attention.forward with SDPA, for clips of one length."""
    batch, frames, hidden = x.shape
    q, k, v = (
        project(x).view(batch, frames, self.heads, -1).transpose(1, 2)
        for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    y = F.scaled_dot_product_attention(q, k, v)
    return self.out_proj(y.transpose(1, 2).reshape(batch, frames, hidden))


class Mini(ser_mini.Model):
    """From cached log-mels on."""

    def __init__(self, config, name, backbone, dropouts):
        projection, hidden, attention, classifier = dropouts
        assert backbone == "ser-mini" and projection == hidden and attention == 0.0
        super().__init__(config)
        self.dropout.p, self.head_dropout.p = hidden, classifier
        if name != "eager":
            ser_mini.Attention.forward = fused_attention

    def load(self, tensors):
        self.load_state_dict(tensors)

    def features(self, clips):
        mels = torch.stack([self.front_end(x)[1] for x in clips])
        self.lengths = torch.full((mels.shape[0],), mels.shape[1])
        return mels

    def forward(self, features):
        return super().forward(features, self.lengths)


class Training:
    def __init__(self, name, backbone, path, clips, count, threads, dropouts):
        torch.set_num_threads(int(threads))
        torch.manual_seed(0)
        tensors, config = read_ser(path)
        kind = Mini if config["features"]["type"] == "logmel" else Wav2Vec2
        model = kind(config, name, backbone, [float(p) for p in dropouts.split(",")]).train()
        model.load(tensors)
        clips = torch.from_numpy(np.fromfile(clips, np.float32).reshape(int(count), -1))
        self.features = model.features(clips)
        self.labels = torch.arange(int(count)) % LABELS
        # Decay as in libser: not on norms, biases and other vectors.
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        matrices = [p for n, p in trained if p.dim() > 1 and not self.is_scale(n)]
        vectors = [p for n, p in trained if p.dim() <= 1 or self.is_scale(n)]
        groups = [
            {"params": matrices, "weight_decay": DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
        self.parameters = matrices + vectors
        self.model = torch.compile(model) if name == "compile" else model

    @staticmethod
    def is_scale(name):
        """The gains of the positional convolution's weight norm."""
        return name.endswith(("original0", "weight_g"))

    def step(self):
        begin, cpu = time.perf_counter(), time.process_time()
        loss = F.cross_entropy(self.model(self.features), self.labels)
        loss.backward()
        middle = time.perf_counter()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        end = time.perf_counter()
        return {
            "forward_backward_ms": 1e3 * (middle - begin),
            "update_ms": 1e3 * (end - middle),
            "cpu_ms": 1e3 * (time.process_time() - cpu),
            "loss": loss.item(),
            "gradient_norm": norm.item(),
            "peak_bytes": peak_memory(),
        }


def peak_memory():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if sys.argv[1] == "prepare":
        prepare(sys.argv[2], pathlib.Path(sys.argv[3]))
        return
    imports = peak_memory()
    training = Training(*sys.argv[1:])
    print(f"ready {torch.__version__}, {imports / 1e6:.0f} MB before the model", flush=True)
    for line in sys.stdin:
        command = line.split()
        if command[0] == "step":
            print(json.dumps(training.step()), flush=True)
        else:
            torch.set_num_threads(int(command[1]))
            print("{}", flush=True)


if __name__ == "__main__":
    main()
