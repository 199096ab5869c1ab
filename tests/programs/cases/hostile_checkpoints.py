"""python hostile_checkpoints.py OUT: hostile torch, safetensors, JSON and pickle files; nothing of them may run."""

import contextlib
import functools
import io
import json
import os
import random
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from grounding_jax.files.pickles import read_plain_pickle
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.readers import open_weights
from tests.programs.trials import run_trials

W = sys.argv[1]
os.makedirs(W)
MARK = W + "/PWNED"
cases = {}


def case(name, data):
    p = f"{W}/{name}"
    Path(p).write_bytes(data)
    cases[name] = p


CMD = b"touch " + MARK.encode()


def S(b):
    return b"X" + struct.pack("<I", len(b)) + b


def tor(pkl, data=(), **kw):
    b = io.BytesIO()
    with zipfile.ZipFile(b, "w", kw.get("c", zipfile.ZIP_STORED)) as z:
        z.writestr("archive/data.pkl", pkl)
        z.writestr("archive/version", b"3\n")
        for k, v in dict(data).items():
            z.writestr(k if "/" in k else f"archive/data/{k}", v)
    return b.getvalue()


P2 = b"\x80\x02"
evil = {
    "reduce_os_system": P2 + b"cos\nsystem\n(" + S(CMD) + b"tR.",
    "global_posix": P2 + b"cposix\nsystem\n(" + S(CMD) + b"tR.",
    "stack_global": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93(" + S(CMD) + b"tR.",
    "inst": b"\x80\x02(" + S(CMD) + b"ios\nsystem\n.",
    "obj": P2 + b"(cos\nsystem\n" + S(CMD) + b"o.",
    "newobj": P2 + b"csubprocess\nPopen\n(" + S(CMD) + b"t\x81.",
    "newobj_ex": b"\x80\x04csubprocess\nPopen\n(" + S(CMD) + b"t}\x92.",
    "build_eval": P2 + b"c__builtin__\neval\n(" + S(b"__import__('os').system('" + CMD + b"')") + b"tR.",
    "build_setattr": P2 + b"ccollections\nOrderedDict\n)R}" + S(b"__class__") + S(b"x") + b"sb.",
    "build_od_items": P2 + b"ccollections\nOrderedDict\n)R}" + S(b"items") + b"K\x01sb.",
    "build_od_keys": P2 + b"ccollections\nOrderedDict\n)R}" + S(b"get") + b"K\x01sb.",
    "build_dtype": P2 + b"ctorch\nFloatStorage\n}" + S(b"x") + b"K\x01sb.",
    "build_ndarray_attr": P2 + b"cnumpy\nndarray\n)R}" + S(b"tensor") + b"K\x01sb.",
    "ext1": P2 + b"\x82\x01.",
    "ext4": P2 + b"\x84\xff\xff\xff\x7f.",
    "persid": P2 + S(b"x") + b"Q.",
    "persid0": b"Px\n.",
    "persid_tuple": P2 + b"(" + S(b"storage") + b"K\x01K\x02K\x03K\x04tQ.",
    "persid_numel_str": P2
    + b"("
    + S(b"storage")
    + b"ctorch\nFloatStorage\n"
    + S(b"0")
    + S(b"cpu")
    + S(b"many")
    + b"tQ.",
    "persid_numel_neg": P2
    + b"("
    + S(b"storage")
    + b"ctorch\nFloatStorage\n"
    + S(b"0")
    + S(b"cpu")
    + b"J\xff\xff\xff\xfftQ.",
    "persid_numel_float": P2
    + b"("
    + S(b"storage")
    + b"ctorch\nFloatStorage\n"
    + S(b"0")
    + S(b"cpu")
    + b"G\x40\x10\0\0\0\0\0\0tQ.",
    "persid_key_list": P2 + b"(" + S(b"storage") + b"ctorch\nFloatStorage\n" + b"]" + S(b"cpu") + b"K\x04tQ.",
    "dotted": b"\x80\x04\x8c\x0bcollections\x94\x8c\x14OrderedDict.__init__\x94\x93.",
    "encode_big": P2 + b"c_codecs\nencode\n(" + S(b"a") + S(b"utf-8") + b"tR.",
    "encode_nostr": P2 + b"c_codecs\nencode\n(K\x01" + S(b"latin1") + b"tR.",
    "long_4GB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "binunicode8_huge": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.",
    "bytearray8_huge": b"\x80\x05\x96\0\0\0\0\0\0\0\x10.",
    "binbytes8_8GB": b"\x80\x04\x8e\0\0\0\0\x02\0\0\0.",
    "frame_huge": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",
    "frame_100GB": b"\x80\x04\x95\0\0\0\0\x19\0\0\0.",
    "memo_huge": P2 + b"K\x01r\xff\xff\xff\x7f.",
    "memo_put_text": b"I1\np99999999999\n.",
    "binput_2e9": P2 + b"]r\x00\x00\x00\x77.",
    "get_missing": P2 + b"h\x05.",
    "deep_list": P2 + b"]" * 200000 + b"a" * 199999 + b".",
    "deep_tuple": P2 + b"K\x01" + b"\x85" * 500000 + b".",
    "deep_reduce": P2 + b"]" + b"\x94" * 0 + b"(" * 1000000 + b".",
    "billion": P2 + b"(" + b"K\x01" * 50 + b"t" + b"q\0" + (b"(" + b"h\0" * 50 + b"tq\0") * 12 + b".",
    "recursive_list": P2 + b"]q\0h\0a.",
    "recursive_dict": P2 + b"}q\0" + S(b"state_dict") + b"h\0s.",
    "recursive_od": P2 + b"ccollections\nOrderedDict\n)Rq\0" + S(b"model") + b"h\0s.",
    "unhashable": P2 + b"}]K\x01s.",
    "int_str": b"Iabc\n.",
    "long_digits": b"L" + b"9" * 200000 + b"L\n.",
    "float_str": b"Fnan\n.",
    "proto9": b"\x80\x09K\x01.",
    "stop": P2 + b".",
    "empty_dict": P2 + b"}.",
    "none": P2 + b"N.",
    "int": P2 + b"K\x01.",
    "str": P2 + S(b"hi") + b".",
    "pop_underflow": P2 + b"000.",
    "mark_only": P2 + b"(.",
    "dup": P2 + b"2.",
    "set_rec": b"\x80\x04\x8f\x94(h\0\x90.",
    "frozenset": b"\x80\x04(K\x01\x91.",
    "nextbuffer": b"\x80\x05\x97.",
    "readonly": b"\x80\x05K\x01\x98.",
    "badop": P2 + b"\xfe.",
    "surrogate": P2 + b"X\x03\0\0\0\xed\xa0\x80.",
    "binstring_neg": b"T\xff\xff\xff\xff.",
    "string_bad": b"S'abc\n.",
    "keys_int": P2 + b"}K\x01K\x02s.",
    "wrapped_list": P2 + b"}" + S(b"model") + b"]s.",
    "dtype_bad": P2 + b"cnumpy\ndtype\n(" + S(b"O8") + b"tR.",
    "dtype_int": P2 + b"cnumpy\ndtype\n(K\x01tR.",
    "dtype_none": P2 + b"cnumpy\ndtype\n)R.",
    "dtype_list": P2 + b"cnumpy\ndtype\n(]tR.",
    "dtype_setstate_short": P2 + b"cnumpy\ndtype\n(" + S(b"f4") + b"tR(K\x01tb.",
    "nd_setstate": P2
    + b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftcnumpy\ndtype\n("
    + S(b"f4")
    + b"tR"
    + b"\x89"
    + S(b"")
    + b"tb.",
    "nd_noset": P2 + b"}" + S(b"model") + b"}" + S(b"w") + b"cnumpy.core.multiarray\n_reconstruct\n)Rss.",
    "param_chain": P2 + b"ctorch._utils\n_rebuild_parameter\n(K\x01tR.",
    "param_key_list": P2 + b"}" + S(b"a") + b"ctorch._utils\n_rebuild_parameter\n(ctorch\nFloatStorage\ntRs.",
    "floatstorage_call": P2 + b"ctorch\nFloatStorage\n(K\x05tR.",
    "dtype_newobj": P2 + b"ctorch\nFloatStorage\n)\x81.",
    "od_newobj": P2 + b"ccollections\nOrderedDict\n)\x81.",
    "od_from_pairs": P2 + b"ccollections\nOrderedDict\n(](K\x01K\x02taK\x03tR.",
    "class_newobj_pickledarray": P2 + b"cnumpy\nndarray\n)\x81}" + S(b"fill") + b"K\x01sb.",
    "tensor_attr": P2 + b"}" + S(b"w") + b"cnumpy\nndarray\n)\x81N}" + S(b"shape") + b"K\x01s\x86bs.",
    "tensor_attr2": P2 + b"}" + S(b"w") + b"cnumpy\nndarray\n)\x81N}" + S(b"tensor") + S(b"boo") + b"s\x86bs.",
}
STOR = b"(" + S(b"storage") + b"ctorch\nFloatStorage\n" + S(b"0") + S(b"cpu") + b"%s" + b"tQ"


def I8(v):
    b = v.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + b


def tens(numel, offset, shape, strides, extra=b""):
    return (
        P2
        + b"}"
        + S(b"w")
        + b"ctorch._utils\n_rebuild_tensor_v2\n("
        + STOR % I8(numel)
        + I8(offset)
        + b"("
        + b"".join(map(lambda v: v if isinstance(v, bytes) else I8(v), shape))
        + b"t("
        + b"".join(map(lambda v: v if isinstance(v, bytes) else I8(v), strides))
        + b"t"
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


tensors = {
    "ok": (4, 0, (2, 2), (2, 1)),
    "neg_offset": (4, -1, (2,), (1,)),
    "off_beyond": (4, 4, (1,), (1,)),
    "neg_shape": (4, 0, (-2, 2), (2, 1)),
    "neg_neg_shape": (4, 0, (-2, -2), (2, 1)),
    "neg_stride": (4, 3, (4,), (-1,)),
    "stride0_huge": (4, 0, (10**6, 10**6), (0, 0)),
    "stride0_2^62": (4, 0, (2**62,), (0,)),
    "overflow_shape": (4, 0, (2**33, 2**33), (0, 0)),
    "2^64": (4, 0, (2**64 - 1,), (0,)),
    "zero_huge": (4, 0, (0, 2**40), (1, 1)),
    "zero_2^64": (4, 0, (0, 2**64), (1, 1)),
    "len_mismatch": (4, 0, (2, 2), (2,)),
    "float_shape": (4, 0, (b"G\x40\0\0\0\0\0\0\0",), (1,)),
    "str_shape": (4, 0, (S(b"2"),), (1,)),
    "none_shape": (4, 0, (b"N",), (1,)),
    "bool_shape": (4, 0, (b"\x88",), (1,)),
    "overlap": (4, 0, (3, 2), (1, 1)),
    "scalar": (1, 0, (), ()),
    "70dims": (4, 0, (1,) * 70, (1,) * 70),
    "stride_huge": (4, 0, (1,), (2**62,)),
    "stride_2^70": (4, 0, (1,), (2**66,)),
}
for n, p in evil.items():
    case(f"zip_{n}.bin", tor(p, {"0": b"\0" * 16}))
    case(f"pkl_{n}.pkl", p if p[:1] == b"\x80" else b"\x80\x02" + p)
    case(f"refs_{n}.p", p)
for n, a in tensors.items():
    case(f"tensor_{n}.bin", tor(tens(*a), {"0": b"\0" * 16}))
okp = tens(4, 0, (2, 2), (2, 1))
case("z_compressed.bin", tor(okp, {"0": b"\0" * 16}, c=zipfile.ZIP_DEFLATED))
case("z_storage_missing.bin", tor(okp))
case("z_storage_short.bin", tor(okp, {"0": b"\0" * 4}))
case("z_dotdot.bin", tor(okp, {"../../../../evil": b"x", "0": b"\0" * 16}))
case("z_nodata.bin", tor(okp).replace(b"data.pkl", b"data.pkx"))
case("z_nested.bin", tor(tor(okp, {"0": b"\0" * 16})))
case("z_big_endian.bin", tor(okp, {"archive/byteorder": b"big", "0": b"\0" * 16}))
case("z_dup.bin", tor(okp, {"0": b"\0" * 16, "other/data/0": b"\1" * 16}))
case("z_bomb.bin", tor(b"\0" * 100_000_000, c=zipfile.ZIP_DEFLATED))
good = tor(okp, {"0": b"\0" * 16})
for k in range(0, len(good), 7):
    case(f"z_trunc_{k:04}.bin", good[:k])
random.seed(1)
for k in range(150):
    b = bytearray(good)
    [b.__setitem__(random.randrange(4, len(b)), random.randrange(256)) for _ in range(random.choice((1, 1, 3, 8)))]
    case(f"z_flip_{k:03}.bin", bytes(b))
eoc = good.rfind(b"PK\x05\x06")
cd = good.find(b"PK\x01\x02")
for n, (at, v) in {
    "cd_offset": (eoc + 16, b"\xff\xff\xff\x7f"),
    "cd_size": (eoc + 12, b"\xff\xff\xff\x7f"),
    "method": (cd + 10, b"\x63\0"),
    "encrypted": (cd + 8, b"\1\0"),
    "version": (cd + 6, b"\xff\xff"),
    "size_huge": (cd + 24, b"\xff\xff\xff\x7f"),
    "csize64": (cd + 20, b"\xff\xff\xff\xff"),
    "hdr_off": (cd + 42, b"\xf0\xff\xff\x7f"),
    "extra_len": (cd + 30, b"\xff\0"),
    "name_utf8": (cd + 8, b"\0\x08"),
}.items():
    b = bytearray(good)
    b[at : at + len(v)] = v
    case(f"z_{n}.bin", bytes(b))
t = io.BytesIO()
with tarfile.open(fileobj=t, mode="w") as tf:
    for n in ("sys_info", "pickle", "storages", "tensors"):
        d = b"\x80\x02}."
        i = tarfile.TarInfo(n)
        i.size = len(d)
        tf.addfile(i, io.BytesIO(d))
case("tar.pt", t.getvalue())
M = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
V = b"\x80\x02M\xe9\x03."
SI = b"\x80\x02}."
ks = b"\x80\x02]" + S(b"0") + b"a."
case("leg_ok.pth", M + V + SI + okp + ks + struct.pack("<q", 4) + b"\0" * 16)
case("leg_keys_int.pth", M + V + SI + okp + P2 + b"K\x05.")
case("leg_keys_unhash.pth", M + V + SI + okp + P2 + b"]]a.")
case("leg_short.pth", M + V + SI + okp + ks + struct.pack("<q", 4))
case("leg_noprefix.pth", M + V + SI + okp + P2 + b"].")
case("leg_count.pth", M + V + SI + okp + ks + struct.pack("<q", 2**62) + b"\0" * 16)
case("leg_nokeys.pth", M + V + SI + okp)
case("leg_evil.pth", M + V + SI + evil["reduce_os_system"])
case("leg_huge.pth", M + V + SI + tens(2**40, 0, (2**40,), (1,)) + ks + struct.pack("<q", 2**40))
case("leg_neg.pth", M + V + SI + tens(-4, 0, (0,), (1,)) + ks + struct.pack("<q", -4) + b"\0" * 16)
case("leg_firstlist.pth", P2 + b"].")
case("leg_version.pth", M + P2 + b"N." + SI + okp)
case("leg_magic_unhash.pth", P2 + b"]K\x01a.")
case("lfs.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n")
case("html.bin", b"<html>")


def st(h, data=b"", ln=None):
    h = h if isinstance(h, bytes) else json.dumps(h).encode()
    return struct.pack("<Q", len(h) if ln is None else ln) + h + data


def E(shape, off, dt="F32"):
    return {"dtype": dt, "shape": shape, "data_offsets": off}


sts = {
    "ok": st({"a": E([2], [0, 8])}, b"\0" * 8),
    "overlap": st({"a": E([2], [0, 8]), "b": E([2], [0, 8])}, b"\0" * 8),
    "neg": st({"a": E([2], [-8, 0]), "b": E([2], [0, 8])}, b"\0" * 8),
    "neg_into_header": st({"a": E([2], [-40, -32]), "b": E([2], [0, 8])}, b"\0" * 8),
    "reversed": st({"a": E([2], [8, 0])}, b"\0" * 8),
    "huge": st({"a": E([2], [0, 2**63])}, b"\0" * 8),
    "hdr_2G": st({}, b"", 2**31),
    "hdr_max": st({}, b"", 2**64 - 1),
    "hdr0": struct.pack("<Q", 0),
    "short": b"\1\2\3",
    "shape_str": st({"a": E("ab", [0, 8])}, b"\0" * 8),
    "shape_float": st({"a": E([2.0], [0, 8])}, b"\0" * 8),
    "shape_neg": st({"a": E([-1, -2], [0, 8])}, b"\0" * 8),
    "shape_none": st({"a": E(None, [0, 8])}, b"\0" * 8),
    "shape_int": st({"a": E(2, [0, 8])}, b"\0" * 8),
    "shape_nested": st({"a": E([[2]], [0, 8])}, b"\0" * 8),
    "shape_strs": st({"a": E(["2"], [0, 8])}, b"\0" * 8),
    "shape_overflow": st({"a": E([2**32, 2**32], [0, 8])}, b"\0" * 8),
    "shape_zero_huge": st({"a": E([0, 2**63], [0, 0])}),
    "shape_70d": st({"a": E([1] * 70, [0, 4])}, b"\0" * 4),
    "shape_bool": st({"a": E([True], [0, 4])}, b"\0" * 4),
    "shape_dict": st({"a": E({"2": 1}, [0, 8])}, b"\0" * 8),
    "shape_1e30": st({"a": E([0, 10**30], [0, 0])}),
    "dtype_none": st({"a": E([2], [0, 8], None)}, b"\0" * 8),
    "dtype_list": st({"a": E([2], [0, 8], [])}, b"\0" * 8),
    "dtype_obj": st({"a": E([2], [0, 8], {})}, b"\0" * 8),
    "dtype_f8": st({"a": E([8], [0, 8], "F8_E4M3")}, b"\0" * 8),
    "no_dtype": st({"a": {"shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "no_shape": st({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"\0" * 8),
    "no_off": st({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
    "off1": st({"a": E([2], [8])}, b"\0" * 8),
    "off3": st({"a": E([2], [0, 8, 9])}, b"\0" * 8),
    "off_str": st({"a": E([2], ["0", "8"])}, b"\0" * 8),
    "off_float": st({"a": E([2], [0.0, 8.0])}, b"\0" * 8),
    "off_none": st({"a": E([2], None)}, b"\0" * 8),
    "off_nan": st(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[NaN,NaN]}}', b"\0" * 8),
    "off_inf": st(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}', b"\0" * 8),
    "off_bool": st({"a": E([2], [False, 8])}, b"\0" * 8),
    "off_dict": st({"a": E([2], {"0": 1, "1": 8})}, b"\0" * 8),
    "off_start_str": st({"a": E([2], ["0", 8])}, b"\0" * 8),
    "off_start_none": st({"a": E([2], [None, 8])}, b"\0" * 8),
    "off_start_float": st({"a": E([2], [0.0, 8])}, b"\0" * 8),
    "entry_list": st({"a": [1]}, b"\0" * 8),
    "entry_none": st({"a": None}, b""),
    "entry_str": st({"a": "data_offsets"}, b""),
    "list": st([1]),
    "null": st(b"null"),
    "int": st(b"5"),
    "badjson": st(b"{"),
    "utf8": st(b'{"\xff":1}'),
    "deep": st(b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}"),
    "dupkeys": st(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b"\0" * 8,
    ),
    "hole": st({"a": E([1], [0, 4]), "b": E([1], [8, 12])}, b"\0" * 12),
    "misaligned": st({"a": E([1], [1, 5])}, b"\0" * 5),
    "meta_only": st({"__metadata__": {"a": 1}}),
    "many": st({f"k{i}": E([0], [0, 0]) for i in range(200000)}),
    "surrogate_key": st(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
    "bigint": st(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', b"\0" * 8),
    "bool_data": st({"a": E([2], [0, 2], "BOOL")}, b"\x07\xff"),
}
for n, b in sts.items():
    case(f"st_{n}.safetensors", b)


def idx(n, content, **files):
    d = Path(f"{W}/idx_{n}")
    d.mkdir()
    (d / "model.safetensors.index.json").write_text(content if isinstance(content, str) else json.dumps(content))
    for k, v in files.items():
        (d / k).write_bytes(v)
    cases["idx_" + n] = str(d)


okst = sts["ok"]
idx("dotdot", {"weight_map": {"a": "../../../../../../etc/passwd"}})
idx("abs", {"weight_map": {"a": "/etc/passwd"}})
idx("dotdot_st", {"weight_map": {"a": "../st_ok.safetensors"}})
idx("abs_st", {"weight_map": {"a": W + "/st_ok.safetensors"}})
idx("missing", {"weight_map": {"a": "m.safetensors"}})
idx("selfref", {"weight_map": {"a": "model.safetensors.index.json"}})
idx("dot", {"weight_map": {"a": "."}})
idx("empty_name", {"weight_map": {"a": ""}})
idx("none", {"weight_map": {"a": None}})
idx("int", {"weight_map": {"a": 5}})
idx("list", {"weight_map": {"a": []}})
idx("mixed", {"weight_map": {"a": "x", "b": 5}})
idx("wm_list", {"weight_map": ["a"]})
idx("wm_none", {})
idx("notobj", "[]")
idx("badjson", "{")
idx("empty", "")
idx("nul", {"weight_map": {"a": "a\0b"}})
idx("long", {"weight_map": {"a": "x" * 5000}})
idx("url", {"weight_map": {"a": "gs://x/y.safetensors"}})
idx("pkl", {"weight_map": {"a": "../zip_reduce_os_system.bin"}})
idx("deep", "[" * 100000 + "]" * 100000)
idx("wm_empty", {"weight_map": {}})
idx("lacks", {"weight_map": {"b": "m.safetensors"}}, **{"m.safetensors": okst})
idx("extra", {"weight_map": {}}, **{"m.safetensors": okst})
idx("dev", {"weight_map": {"a": "/dev/zero"}})
idx("surrogate", '{"weight_map": {"a": "\\ud800.safetensors"}}')


ND = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85" + S(b"b") + b"tR"
NUMBERS = b"cnumpy\ndtype\n(" + S(b"f4") + b"\x89\x88tR(K\x03" + S(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
ARRAY = ND + b"(K\x01K\x02K\x03\x86" + NUMBERS + b"\x89" + b"C\x18" + b"\0" * 24 + b"tb"
goods = {
    "leg.pth": M + V + SI + okp + ks + struct.pack("<q", 4) + b"\0" * 16,
    "arrays.pkl": b"\x80\x03}" + S(b"model") + b"}" + S(b"w") + ARRAY + b"ss.",
    "st.safetensors": st({"a": E([2], [0, 8]), "b": E([1, 3], [8, 14], "F16")}, b"\0" * 14),
}
for n, b in goods.items():
    case(f"good_{n}", b)
    for k in range(250):
        flipped = bytearray(b)
        for _ in range(random.choice((1, 1, 2, 5))):
            flipped[random.randrange(len(b))] = random.randrange(256)
        case(f"flip_{k:03}_{n}", bytes(flipped))


def read(path):
    """Everything that a checkpoint has, or that references are."""
    if path.endswith(".p"):
        return type(read_plain_pickle(path)).__name__
    weights = open_weights(path)
    if sum(tensor.nbytes for tensor in weights.values()) > 10**9:
        raise AssertionError("larger than its file")
    total = sum(tensor.read().nbytes for tensor in weights.values())
    with contextlib.suppress(ValueError):  # no layout: most of these
        open_layout(path, ("SAM",))
    return f"{len(weights)} tensors, {total} bytes"


run_trials({name: functools.partial(read, path) for name, path in cases.items()}, Path(MARK))
