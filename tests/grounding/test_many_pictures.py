"""Many pictures in one command: in batches, each with results of its own, and one that is bad spoils no other."""

import pytest
from etils import epath

from grounding_jax.cli.commands import MeshOptions, OnMesh
from grounding_jax.cli.pictures import Request, answer_all, check_results, folder_requests
from grounding_jax.sharding.mesh import MeshShape

pytestmark = pytest.mark.quick


def ask(names: str, bad: str = "", unreadable: str = "", unwritable: str = "", batch_size: int = 3, multiple: int = 1):
    """Asks about pictures of one letter; gives the exit code, what the model was asked, and what was finished."""
    asked, finished = [], []

    def read(request):
        if request.question in unreadable:
            raise OSError(f"no {request.question}")
        return request.question

    def answer(items):
        asked.append("".join(items))
        if set(items) & set(bad):
            raise ValueError("one of them\nis bad")
        return [item.upper() for item in items]

    def finish(request, item, one):
        if item in unwritable:
            raise OSError("the disk is full")
        assert request.question == item == one.lower()
        finished.append(one)

    requests = [Request(epath.Path(f"{name}.png"), name, epath.Path("out") / name) for name in names]
    options = dict(what="asking", program="gsva", batch_size=batch_size, multiple=multiple)
    return answer_all(requests, read, answer, finish, **options), asked, "".join(finished)


def test_batches_have_one_size():
    assert ask("abcdefgh") == (0, ["abc", "def", "ghg"], "ABCDEFGH")
    assert ask("ab") == (0, ["ab"], "AB")
    assert ask("abc", multiple=4) == (0, ["abca"], "ABC")
    assert ask("abcde", batch_size=1, multiple=2) == (0, ["ab", "cd", "ee"], "ABCDE")


def test_what_fails_is_named_and_the_others_go_on(capsys):
    code, asked, finished = ask("abcdefgh", bad="e", unreadable="bh", unwritable="g")
    assert code == 1 and finished == "ACDF"
    assert asked == ["acd", "efg", "e", "f", "g"]
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "4 of 8 pictures done; results in out"
    errors = [line for line in printed.err.splitlines() if line.startswith("gsva: error: ")]
    assert errors == [
        "gsva: error: b.png: no b",
        "gsva: error: e.png: one of them is bad",
        "gsva: error: g.png: the disk is full",
        "gsva: error: h.png: no h",
    ]
    assert ask("ab", unreadable="ab") == (1, [], "")


def test_results_never_replace_what_they_are_made_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in ("out", "out/a.png", tmp_path / "out" / "b.json"):
        with pytest.raises(ValueError, match="results would be written over .*, or into it: choose another --out"):
            check_results(epath.Path("out"), ("a.png", "b.json"), [epath.Path("c.png"), epath.Path(source)])
    check_results(epath.Path("out"), ("a.png",), [epath.Path("out") / "b.png", epath.Path("a.png")])


def test_no_two_pictures_share_a_folder_and_none_leaves_it(tmp_path):
    for name in ("a.png", "A.jpg", "...png", "a.webp"):
        (tmp_path / name).touch()
    requests = folder_requests(epath.Path(tmp_path), "dog", epath.Path("out"))
    folders = [request.folder for request in requests]
    assert len({str(folder).lower() for folder in folders}) == 4
    assert all(folder.parent == epath.Path("out") and folder.name not in ("", ".", "..") for folder in folders)


def test_a_single_picture_needs_one_device():
    assert OnMesh().mesh_for(1) is None
    assert OnMesh().mesh_for(2) == MeshShape(-1, 1, 1) == OnMesh().mesh_shape()
    assert OnMesh(mesh=MeshOptions(tensor=8)).mesh_for(1) == MeshShape(-1, 1, 8)
