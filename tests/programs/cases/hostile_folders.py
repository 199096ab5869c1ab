"""python hostile_folders.py OUT: `gsva segment` and `gsva import` on hostile configs, tokenizers and weights.

Every case is refused in one line with status 2, or is no error at all.
"""

import contextlib
import copy
import functools
import io
import json
import os
import random
import shutil
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from gsva_jax.cli import main
from tests.programs.trials import run_trials

REPO = Path(__file__).parents[3]
W = sys.argv[1]
os.makedirs(W)
G = f"{REPO}/tests/golden/gsva"
T = f"{REPO}/gsva_jax/assets/tiny"
PIC = f"{REPO}/gsva_jax/assets/photo_scene.jpg"
cases = {}


def run(argv):
    """Runs a command; ValueError with what it says if that is one line and status 2."""
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        status = main([str(a) for a in argv])
    lines = [
        line for line in error.getvalue().splitlines() if line.strip() and not line.startswith(("loaded", "answered"))
    ]
    if status == 2 and len(lines) == 1:
        raise ValueError(lines[0])
    if status or lines:
        raise AssertionError(f"status {status}, {lines}")
    return "done"


def go(name, argv):
    cases[name] = functools.partial(run, argv)


def model(name, **files):
    d = f"{W}/{name}"
    os.makedirs(d)
    for f in os.listdir(T):
        os.symlink(f"{T}/{f}", f"{d}/{f}")
    for f, c in files.items():
        f = f.replace("__", ".")
        os.path.lexists(f"{d}/{f}") and os.remove(f"{d}/{f}")
        if c is not None:
            Path(f"{d}/{f}").write_bytes(
                c if isinstance(c, bytes) else c.encode() if isinstance(c, str) else json.dumps(c).encode()
            )
    return d


def seg(name, d):
    go(name, ["segment", PIC, "the turtle", "--checkpoint", d, "--out", f"{W}/out"])


c0 = json.loads(Path(f"{T}/config.json").read_text())
t0 = json.loads(Path(f"{T}/tokenizer.json").read_text())


def edit(c, path, v):
    c = copy.deepcopy(c)
    x = c
    for k in path[:-1]:
        x = x[k]
    if v is KeyError:
        del x[path[-1]]
    else:
        x[path[-1]] = v
    return c


seg("ok", T)
for n, v in {"list": [], "null": None, "int": 5, "str": "x", "empty": {}}.items():
    seg("cfg_" + n, model("cfg_" + n, config__json=json.dumps(v)))
seg("cfg_zero", model("cfg_zero", config__json=""))
seg("cfg_bad", model("cfg_bad", config__json="{"))
seg("cfg_bin", model("cfg_bin", config__json=b"\xff\xfe\0"))
seg("cfg_deep", model("cfg_deep", config__json="[" * 200000))
seg("cfg_nan", model("cfg_nan", config__json=json.dumps(edit(c0, ["llama", "width"], float("nan")))))
for p in (
    ["llama", "layers"],
    ["llama", "heads"],
    ["clip", "image_size"],
    ["sam", "image_size"],
    ["template"],
    ["select_layer"],
    ["model_max_length"],
    ["llama"],
    ["llama", "eps"],
    ["clip", "activation"],
):
    for v in (10**9, 0, "x", None):
        seg(
            f"cfg_{'.'.join(p)}={'del' if v is KeyError else v}",
            model(f"cfg_{'.'.join(p)}_{'del' if v is KeyError else v}", config__json=edit(c0, p, v)),
        )
for n, v in {
    "empty": "",
    "list": [],
    "obj": {},
    "bad": "{",
    "bin": b"\xff\xfe",
    "null": "null",
    "deep": "[" * 100000,
}.items():
    seg("tok_" + n, model("tok_" + n, tokenizer__json=v if isinstance(v, (str, bytes)) else json.dumps(v)))
for p, v in (
    (["model"], None),
    (["model", "vocab"], {}),
    (["model", "vocab"], []),
    (["model", "type"], "Evil"),
    (["added_tokens"], []),
    (
        ["added_tokens"],
        [
            {
                "id": 10**9,
                "content": "<s>",
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
        ],
    ),
    (["decoder"], None),
    (["normalizer"], {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}),
    (["pre_tokenizer"], {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}),
    (["model", "merges"], [["a", "zz"]]),
    (["added_tokens"], t0["added_tokens"][:-1]),
    (["model", "vocab"], {k: v + 10**6 for k, v in t0["model"]["vocab"].items()}),
    (["model", "vocab"], {k: 0 for k in t0["model"]["vocab"]}),
):
    seg(
        f"tok_{'.'.join(p)}={str(v)[:14]}",
        model(f"tok_{'.'.join(p)}_{abs(hash(str(v)))}", tokenizer__json=edit(t0, p, v)),
    )
st = next(f for f in os.listdir(T) if f.endswith(".safetensors"))
raw = Path(f"{T}/{st}").read_bytes()
hl = struct.unpack("<Q", raw[:8])[0]
h = json.loads(raw[8 : 8 + hl])


def pack(h, data):
    b = json.dumps(h).encode()
    return struct.pack("<Q", len(b)) + b + data


key = next(k for k in h if k != "__metadata__")
data = bytearray(raw[8 + hl :])
f16 = h[key]["dtype"]
nan = bytearray(data)
nan[:] = (b"\x00\x7e" if f16 == "F16" else b"\xc0\x7f" if f16 == "BF16" else b"\0\0\xc0\x7f") * (
    len(data) // (2 if f16 != "F32" else 4)
)


def wts(n, b):
    d = model(n)
    os.remove(f"{d}/{st}")
    Path(f"{d}/{st}").write_bytes(b)
    seg(n, d)


wts("w_nan", pack(h, bytes(nan)))
wts("w_zero", pack(h, bytes(len(data))))
wts("w_trunc", raw[: len(raw) // 2])
h2 = copy.deepcopy(h)
h2[key]["dtype"] = {"F16": "I16", "BF16": "I16", "F32": "I32"}[f16]
wts("w_int", pack(h2, bytes(data)))
h2 = copy.deepcopy(h)
h2[key]["shape"] = [1, *h2[key]["shape"]]
wts("w_rank", pack(h2, bytes(data)))
h2 = copy.deepcopy(h)
h2["extra/one"] = h2.pop(key)
wts("w_renamed", pack(h2, bytes(data)))
idx = json.loads(Path(f"{T}/model.safetensors.index.json").read_text())
for n, v in {
    "int": 5,
    "null": None,
    "list": ["x"],
    "dotdot": "../../../../etc/passwd",
    "self": "model.safetensors.index.json",
    "dir": ".",
}.items():
    i = copy.deepcopy(idx)
    i["weight_map"][key] = v
    seg("idx_" + n, model("idx_" + n, **{"model.safetensors.index__json": i}))


def imp(name, **files):
    d = f"{W}/imp_{name}"
    os.makedirs(d)
    shutil.copytree(f"{G}/tiny-llava", d + "/l")
    shutil.copytree(f"{G}/tiny-clip", d + "/c")
    shutil.copy(f"{G}/gsva-tiny-a.bin", d + "/w.bin")
    shutil.copy(f"{G}/config.json", d + "/s.json")
    for f, c in files.items():
        f = f.replace("__", ".").replace("_S_", "/")
        Path(f"{d}/{f}").write_bytes(
            c if isinstance(c, bytes) else c.encode() if isinstance(c, str) else json.dumps(c).encode()
        )
    go(
        "imp_" + name,
        [
            "import",
            "--format",
            "official",
            d + "/w.bin",
            "--language-model",
            d + "/l",
            "--vision-tower",
            d + "/c",
            "--sizes",
            d + "/s.json",
            "--out",
            d + "/out",
        ],
    )


imp("ok")
lc = json.loads(Path(f"{G}/tiny-llava/config.json").read_text())
cc = json.loads(Path(f"{G}/tiny-clip/config.json").read_text())
sc = json.loads(Path(f"{G}/config.json").read_text())
for n, c in {"list": [], "deep": "[" * 100000, "empty": ""}.items():
    imp("llava_" + n, l_S_config__json=c)
    imp("clip_" + n, c_S_config__json=c)
    imp("sizes_" + n, s__json=c)
for k in list(lc):
    for v in ("x", 10**9, None):
        if isinstance(lc[k], (int, float, list, dict)) and not isinstance(lc[k], bool):
            imp(f"llava.{k}={v}", l_S_config__json={**lc, k: v})
for k in list(cc):
    for v in ("x", None, []):
        if not isinstance(cc[k], (str, bool)):
            imp(f"clip.{k}={v}", c_S_config__json={**cc, k: v})
for k in list(sc):
    for v in ("x", 10**9, None):
        imp(f"sizes.{k}={v}", s__json={**sc, k: v})
tm = Path(f"{G}/tiny-llava/tokenizer.model").read_bytes()
random.seed(0)
for n, b in {
    "empty": b"",
    "text": b"hello",
    "half": tm[: len(tm) // 2],
    "zeros": b"\0" * 1000,
    "ff": b"\xff" * 1000,
    "double": tm + tm,
    "one": tm[:1],
}.items():
    imp("tm_" + n, l_S_tokenizer__model=b)
for i in range(12):
    b = bytearray(tm)
    [b.__setitem__(random.randrange(len(b)), random.randrange(256)) for _ in range(5)]
    imp(f"tm_flip{i}", l_S_tokenizer__model=bytes(b))
for n, v in {
    "list": [],
    "str": "x",
    "ids_str": {"<pad>": "x"},
    "ids_none": {"<pad>": None},
    "ids_mixed": {"a": 1, "b": "x"},
    "bad": "{",
    "huge": {"<pad>": 10**9},
    "float": {"<pad>": 1.5},
    "empty_tok": {"": 100},
}.items():
    imp("added_" + n, **{"l_S_added_tokens__json": v if v == "{" else json.dumps(v)})
for n, v in {
    "list": [],
    "bad": "{",
    "class": {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": "evil.Evil"}},
    "legacy": {"legacy": "x", "add_bos_token": 5},
    "unk": {"unk_token": 5},
    "added": {"added_tokens_decoder": {"5": {"content": "zzz"}}},
    "added2": {"added_tokens_decoder": []},
    "maxlen": {"model_max_length": "x"},
    "kw": {"vocab_file": "/etc/passwd"},
}.items():
    imp("tc_" + n, **{"l_S_tokenizer_config__json": v if v == "{" else json.dumps(v)})
imp("stm_list", **{"l_S_special_tokens_map__json": "[]"})
imp("stm_bad", **{"l_S_special_tokens_map__json": "{"})
imp("stm_int", **{"l_S_special_tokens_map__json": json.dumps({"unk_token": 5})})

run_trials(cases, Path(W) / "PWNED")
