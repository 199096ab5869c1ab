"""The door: what it lets in, what it refuses in one line, and what it never writes."""

import os

import msgspec
import numpy as np
import pytest
from etils import epath

from grounding_jax.files import arrays, paths, records, regular, text, writing


class Entry(msgspec.Struct):
    id: int
    score: float = 0.0
    name: str = ""


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'[{"id": 1}, {"id": "2"}]', r"f\.json at \$\[1\]\.id: expected `int`, got `str`"),
        (b'[{"id": 1}, {"id": null}]', r"f\.json at \$\[1\]\.id: expected `int`, got `null`"),
        (b'[{"id": 1}, {}]', r"f\.json at \$\[1\]: object missing required field `id`"),
        (b'{"id": 1}', r"f\.json at \$: expected `array`, got `object`"),
        (b'[{"id": 1,\n "score": NaN}]', r"f\.json is not valid JSON, line 2: every number must be finite"),
        (b'[{"id": 1, "score": -Infinity}]', r"f\.json is not valid JSON, line 1: every number must be finite"),
        (b'[{"id": 1, "score": 1e400}]', r"f\.json at \$\[0\]\.score: number out of range"),
        (b'[{"id": 1}', r"f\.json is not valid JSON"),
        (b"", r"f\.json is not valid JSON"),
        (b'[{"id": 1}]]', r"f\.json is not valid JSON, line 1: trailing characters"),
        (b"[" * 100_000, r"f\.json at \$\[0\]: expected `object`, got `array`"),
        (b'[{"other": ' + b"[" * 100_000, r"f\.json is not valid JSON: it is nested too deep"),
        ('[{"id": 1,\n "name": "左"}]'.encode("gbk"), r"f\.json, line 2: this is not UTF-8 but another encoding"),
        ('[{"id": 1}]'.encode("utf-16"), r"f\.json, line 1: this is not UTF-8 but UTF-16"),
        (b'[{"id": 1, "name": "\\ud800"}]', r"f\.json is not valid JSON"),
    ],
)
def test_what_is_not_as_declared_is_one_line(tmp_path, data, line):
    (tmp_path / "f.json").write_bytes(data)
    with pytest.raises(ValueError, match=line) as caught:
        records.read(tmp_path / "f.json", list[Entry])
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


def test_what_is_as_declared(tmp_path):
    file = tmp_path / "f.json"
    for data in (b'[{"id": 1, "score": 2, "more": [null]}]', b'\xef\xbb\xbf[{"id": 1, "score": 2.0}]\r\n'):
        file.write_bytes(data)
        assert records.read(file, list[Entry]) == [Entry(1, 2.0)]
    file.write_bytes('[{"id": 1, "name": "café"}]'.encode("cp1252"))
    assert records.read(file, list[Entry], fallback_encoding="cp1252") == [Entry(1, 0.0, "café")]
    assert records.convert([{"id": 3}], list[Entry], "f.p") == [Entry(3)]
    with pytest.raises(ValueError, match=r"f\.p at \$\[0\]\.id: expected `int`, got `str`"):
        records.convert([{"id": "3"}], list[Entry], "f.p")


def test_ids_are_unique():
    assert records.unique([Entry(1), Entry(2)], "entry", "f.json") == {1: Entry(1), 2: Entry(2)}
    with pytest.raises(ValueError, match="f.json has entry 2 twice"):
        records.unique([Entry(2), Entry(1), Entry(2)], "entry", "f.json")


def test_only_a_line_feed_ends_a_line(tmp_path):
    file = tmp_path / "f.txt"
    file.write_bytes("\ufeffa\u2028b\r\n\n \x85\nc\x0b\x0cd\re".encode())
    assert text.read_lines(file) == [(1, "a\u2028b"), (4, "c\x0b\x0cd\re")]
    file.write_bytes(b"a\nb\xff\n")
    with pytest.raises(ValueError, match=r"f\.txt, line 2: this is not UTF-8"):
        text.read_lines(file)


def test_only_regular_files_of_a_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    (tmp_path / "large").write_bytes(b"12345")
    assert regular.read_bytes(tmp_path / "large", max_bytes=5) == b"12345"
    for name, line in (("pipe", "not a regular file"), (".", "is a folder"), ("large", "has 5 bytes; no more than 4")):
        with pytest.raises(ValueError, match=line):
            regular.read_bytes(tmp_path / name, max_bytes=4)
    for name in ("none", "a\0b", "x" * 5000):
        with pytest.raises(FileNotFoundError, match="a file is missing"):
            regular.read_bytes(tmp_path / name)
    with pytest.raises(ValueError, match="not a regular file"):
        regular.open_regular("/dev/zero")


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "", ".", "a\0b", "..\\a", "C:/a", "a/.."])
def test_names_that_lead_out_of_a_folder(name):
    with pytest.raises(ValueError, match=r"f\.json names the file .* which is not below folder"):
        paths.below("folder", name, "f.json")


def test_names_below_a_folder():
    for name in ("a.jpg", "sub/a.jpg", "...png", "a..b/c"):
        assert paths.below("folder", name, "f.json") == epath.Path("folder") / name


def test_every_picture_has_a_name_of_its_own_for_its_results(tmp_path):
    pictures = ["a.png", "a.jpg", "sub/a.png", "A.webp", "a-2.png", "é.png", "e\u0301.png", "straße.png", "STRASSE.png"]
    names = paths.result_names(pictures)
    assert names == ["a", "a-2", "a-3", "A-4", "a-2-2", "é", "e\u0301-2", "straße", "STRASSE-2"]
    hostile = ["...png", "....png", ".. .png", "con.png", "NUL.tar.png", "a:b.png", "a\nb.png", "x" * 300 + ".png"]
    hostile += ["画" * 200 + ".png", "trailing. .png", "\udcff.png", "aux", "com1.png", "?.png", "*.png", "-.png"]
    found = paths.result_names(hostile)
    assert found[:4] == ["picture", "picture-2", "picture-3", "picture-con"]
    assert len({name.casefold() for name in found}) == len(hostile)
    for name in found:
        assert (tmp_path / name).parent == tmp_path and len(name.encode()) < 220
        (tmp_path / name).mkdir()


def test_no_file_holds_nan_and_none_is_half_written(tmp_path, monkeypatch):
    file = tmp_path / "f.json"
    writing.write_json(file, {"a": "é"}, indent=1)
    assert file.read_bytes() == '{\n "a": "é"\n}\n'.encode()
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match=r"f\.json is not written: JSON has no numbers that are not finite"):
            writing.write_json(file, [{"score": value}])
        with pytest.raises(ValueError, match=r"f\.json is not written"):
            writing.write_json_lines(file, [{"score": value}])
    with pytest.raises(KeyboardInterrupt), writing.replaced(file) as scratch:
        scratch.write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"] and "é" in file.read_text()


def test_two_who_write_a_file_at_once_do_not_meet(tmp_path):
    """Not in one process, and not in two of the same number in containers that share a folder."""
    file = tmp_path / f"{251 * 'a'}.txt"
    with writing.replaced(file) as one, writing.replaced(file) as other:
        one.write_text("one")
        other.write_text("other")
    assert file.read_text() == "one" and list(tmp_path.iterdir()) == [file]


def test_arrays_hold_no_objects(tmp_path):
    arrays.write_array(tmp_path / "a.npy", np.arange(3))
    assert arrays.read_array(tmp_path / "a.npy").tolist() == [0, 1, 2]
    np.save(tmp_path / "b.npy", np.array([print], object), allow_pickle=True)
    (tmp_path / "c.npy").write_bytes(b"")
    for name in ("b.npy", "c.npy"):
        with pytest.raises(ValueError, match=rf"cannot read the array .*{name}"):
            arrays.read_array(tmp_path / name)
