"""Text to ids and back, with the ids of the tokens that mean something to a grounding model.

A tokenizer is frozen once, when weights are imported, as ``tokenizer.json``; everything else reads that file,
so ids cannot change with the version of a library. They are those of the slow LLaMA tokenizer with
``legacy=True``, which the released checkpoints were trained with: every stretch of text between two added
tokens is encoded by itself behind a dummy space. So the "." after "[SEG]" is the piece "▁." (spec gsva c.2).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers
from etils import epath
from tokenizers import Regex, normalizers, pre_tokenizers

from grounding_jax.files import records, regular
from grounding_jax.files.text import read_text
from grounding_jax.files.writing import write_text
from grounding_jax.models.llava import IMAGE_TOKEN

IMAGE_TEXT = "<image>"
BOS_TEXT, EOS_TEXT, UNK_TEXT = "<s>", "</s>", "<unk>"
SEG_TEXT, REJ_TEXT = "[SEG]", "[REJ]"
IM_START_TEXT, IM_END_TEXT = "<im_start>", "<im_end>"
TOKENS = (SEG_TEXT, REJ_TEXT, IM_START_TEXT, IM_END_TEXT)  # that GSVA adds to LLaMA's vocabulary, in this order

FILE_NAME = "tokenizer.json"

# One shared token, or the numbered ones of the ablation with individual tokens (spec gsva i).
_SEG_PATTERN = re.compile(r"\[SEG\d*\]")
_TARGET_PATTERN = re.compile("|".join(map(re.escape, (SEG_TEXT, REJ_TEXT))))
_SPACE = "\u2581"
_SENTENCEPIECE_FILES = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
# What sentencepiece's dummy space amounts to: one more space before each stretch, even if it starts with one.
_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": _SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
    ],
}
_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
# Of all added tokens: they are taken as they stand, and leave the text around them alone.
_FLAGS = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
_SENTENCE = "a a"  # comes through every vocabulary
# Pieces of the small vocabulary: a word with the space before it, otherwise single characters.
_WORDS = rf"{_SPACE}?\p{{L}}+(?:['-]\p{{L}}+)*|{_SPACE}|[^{_SPACE}\p{{L}}]"


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A frozen vocabulary.

    Attributes:
        backend: does the encoding.
        bos, eos: ids of "<s>" and "</s>".
        unk: id of "<unk>", which is also the padding (spec gsva a.5).
        seg: ids of the tokens that announce a mask. Test for membership: there may be one or several.
        rej: id of "[REJ]", or None where the model has no such token (LISA).
        im_start, im_end: ids of the marks around a picture, or None where the model has none.
        added: ids of all tokens that are recognised in text before anything else, the above included.
        vocab_size: number of ids, added tokens included.
    """

    backend: tokenizers.Tokenizer
    bos: int
    eos: int
    unk: int
    seg: tuple[int, ...]
    rej: int | None
    im_start: int | None
    im_end: int | None
    added: frozenset[int]
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without "<s>" in front. Added tokens in the text are recognised.

        Raises:
            ValueError: the text has half a character (a lone surrogate, from a wrongly decoded file or name).
        """
        try:
            return self.backend.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise ValueError(f"not valid Unicode text: {text!r}") from error

    def encode_with_image(self, text: str) -> list[int]:
        """Ids of a text behind "<s>", each "<image>" in it being one `IMAGE_TOKEN` (spec gsva c.2)."""
        ids = [self.bos]
        for number, stretch in enumerate(text.split(IMAGE_TEXT)):
            if number:
                ids.append(IMAGE_TOKEN)
            ids.extend(self.encode(stretch))
        return ids

    def number_targets(self, text: str) -> str:
        """A conversation in the model's own tokens: "[SEG]" for target j is token j mod n of `seg` (spec gsva i).

        Args:
            text: text with "[SEG]" or "[REJ]" for each target in turn. The same comes back where there is one token.
        """
        if len(self.seg) < 2:
            return text
        numbered = itertools.cycle(map(self.backend.id_to_token, self.seg))

        def own(found: re.Match) -> str:
            token = next(numbered)  # a rejected target has its number, too
            return token if found[0] == SEG_TEXT else REJ_TEXT

        return _TARGET_PATTERN.sub(own, text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, added tokens written out and without the dummy spaces: inverse of the two above.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        ids = [int(i) for i in ids]
        for i in ids:
            if i != IMAGE_TOKEN and not 0 <= i < self.vocab_size:
                raise ValueError(f"id {i} is not in the vocabulary of {self.vocab_size}")
        parts = []
        for alone, stretch in itertools.groupby(ids, lambda i: i == IMAGE_TOKEN or i in self.added):
            if alone:
                parts.extend(IMAGE_TEXT if i == IMAGE_TOKEN else self.backend.id_to_token(i) for i in stretch)
            else:
                parts.append(self.backend.decode(list(stretch), skip_special_tokens=False))
        return "".join(parts)

    def save(self, folder: epath.PathLike) -> None:
        """Writes ``tokenizer.json`` into an existing folder."""
        write_text(epath.Path(folder) / FILE_NAME, self.backend.to_str(pretty=True) + "\n")


def load_tokenizer(folder: epath.PathLike) -> Tokenizer:
    """Reads the ``tokenizer.json`` of a model folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a tokenizer, or it lacks "<unk>", "<s>" or "</s>".
    """
    path = epath.Path(folder) / FILE_NAME
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: a model folder holds the tokenizer that `import` froze")
    return _from_json(read_text(path), str(path))


def freeze(language_model: epath.PathLike, tokens: Sequence[str] = TOKENS) -> Tokenizer:
    """Makes the tokenizer of a model from a LLaMA or LLaVA folder (spec gsva a.5).

    Args:
        language_model: folder with ``tokenizer.model`` and, if any, ``added_tokens.json``.
        tokens: to add in this order where the folder does not have them; LISA has no "[REJ]", LLaVA none of them.

    Raises:
        FileNotFoundError: the folder has no ``tokenizer.model``.
        ValueError: it is broken, or ``added_tokens.json`` does not continue its ids.
    """
    from transformers import LlamaTokenizer  # heavy, and only needed here

    folder = epath.Path(language_model)
    _check_sentencepiece(folder / "tokenizer.model")
    # A copy: transformers reads local folders only, and would prefer a tokenizer.json of unknown origin.
    with tempfile.TemporaryDirectory() as copy:
        for name in _SENTENCEPIECE_FILES:
            if (folder / name).exists():
                (epath.Path(copy) / name).write_bytes(regular.read_bytes(folder / name))
        try:
            slow = LlamaTokenizer.from_pretrained(copy, legacy=True)
        except Exception as error:  # of any kind: these files are read without looking at what they hold
            files = ", ".join(_SENTENCEPIECE_FILES)
            raise ValueError(f"{folder}: no tokenizer can be made of {files}: {error!r}") from error
    # transformers does not always read this file itself.
    added_file = folder / "added_tokens.json"
    declared = _read_added(added_file) if added_file.exists() else {}
    slow.add_tokens(sorted(declared, key=declared.get), special_tokens=True)
    for token, i in declared.items():
        if (actual := slow.convert_tokens_to_ids(token)) != i:
            raise ValueError(f"{added_file} gives {token} the id {i}, but with {folder}/tokenizer.model it is {actual}")
    for token in tokens:
        slow.add_tokens([token], special_tokens=token in (IM_START_TEXT, IM_END_TEXT))
    state = records.decode(slow.backend_tokenizer.to_str(), dict[str, Any], str(folder))
    # transformers leaves the dummy space out before a stretch that starts with a space. Sentencepiece, and so
    # the release, does not: "[SEG] </s>" of the Llama-2 template has two spaces between its tokens.
    state["normalizer"], state["pre_tokenizer"] = _NORMALIZER, None
    for token in state["added_tokens"]:
        token.update(_FLAGS)
    return _from_json(records.to_json(state), str(folder))


def _read_added(file: epath.Path) -> dict[str, int]:
    """The ids of tokens in an ``added_tokens.json``."""
    try:
        return records.read(file, dict[str, int])
    except ValueError as error:
        raise ValueError(f"{error}; it should give tokens their ids, like {{'<pad>': 32000}}") from error


def with_targets(tokenizer: Tokenizer, tokens: Sequence[str]) -> tuple[Tokenizer, tuple[int, ...]]:
    """A vocabulary with other tokens for targets, in the place of those it has, as `freeze` orders them.

    Args:
        tokenizer: the vocabulary; where it has no tokens for targets, they come at its end.
        tokens: tokens that it is to have, such as "[SEG]" alone (LISA), or "[SEG000]", "[SEG001]" and "[REJ]".

    Returns:
        The new vocabulary, and for each of its ids the one that it had before, -1 where it had none.
    """
    state = records.decode(tokenizer.backend.to_str(), dict[str, Any], "the tokenizer")
    first = tokenizer.seg[0] if tokenizer.seg else tokenizer.vocab_size
    added = {token["id"]: token for token in state["added_tokens"]}
    flags = added.get(first, {**_FLAGS, "special": False})
    kept = [added[i] for i in sorted(added.keys() - {*tokenizer.seg, tokenizer.rej})]
    moved = [{**flags, "content": token} for token in tokens] + [token for token in kept if token["id"] > first]
    state["added_tokens"] = [token for token in kept if token["id"] < first]
    state["added_tokens"] += [{**token, "id": i} for i, token in enumerate(moved, first)]
    made = _from_json(records.to_json(state), "with_targets")
    return made, token_rows(made, tokenizer)


def token_rows(tokenizer: Tokenizer, before: Tokenizer) -> tuple[int, ...]:
    """For each id of a vocabulary the one that its token had in another, -1 where that has no such token."""
    ids = before.backend.get_vocab(with_added_tokens=True)
    return tuple(ids.get(tokenizer.backend.id_to_token(i), -1) for i in range(tokenizer.vocab_size))


def _check_sentencepiece(path: epath.Path) -> None:
    """Raises where a file is missing or broken, which transformers reports as something else."""
    import sentencepiece  # only needed here

    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: it is the sentencepiece vocabulary of the language model")
    content = regular.read_bytes(path)
    try:
        broken = not content or not sentencepiece.SentencePieceProcessor(model_proto=content).get_piece_size()
    except RuntimeError:
        broken = True
    if broken:
        raise ValueError(f"{path} ({len(content)} bytes) is not a sentencepiece model: it may be truncated")


def train(texts: Iterable[str], added: Sequence[str] = TOKENS) -> Tokenizer:
    """Makes a small vocabulary in which every word of the texts is one token.

    Other words are spelt in characters: those of the texts and printable ASCII; the rest in bytes. A word is
    taken with the space before it, as it stands in a text. Spaces and added tokens behave as in LLaMA. The
    result depends on the set of words only, not on their order.

    Args:
        texts: texts that the model is going to read and write, added tokens and "<image>" included.
        added: tokens to append after the vocabulary, in this order.
    """
    texts = list(texts)
    control = [UNK_TEXT, BOS_TEXT, EOS_TEXT]
    not_text = re.compile("|".join(re.escape(token) for token in (*control, *added, IMAGE_TEXT)))
    normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    splitter = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    pieces = {chr(code) for code in range(ord("!"), ord("~") + 1)} | {_SPACE}
    for stretch in {stretch for text in texts for stretch in not_text.split(text)}:
        pieces.update(piece for piece, _ in splitter.pre_tokenize_str(normalizer.normalize_str(stretch)))
    pieces = {piece for piece in pieces if piece.isprintable()}
    in_order = sorted(pieces, key=lambda piece: (len(piece) > 1, piece))
    vocabulary = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *in_order]
    return _from_json(records.to_json(_small_state(vocabulary, control, added)), "train")


def _small_state(vocabulary: list[str], control: list[str], added: Sequence[str]) -> dict:
    """The ``tokenizer.json`` of a vocabulary without merges: a piece is in it, or is spelt."""
    flags = {**_FLAGS, "special": True}
    tokens = [*enumerate(control), *enumerate(added, len(vocabulary))]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": content, **flags} for i, content in tokens],
        "normalizer": _NORMALIZER,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": _WORDS},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": _DECODER,
        "model": {
            "type": "BPE",
            "unk_token": UNK_TEXT,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": True,
            "vocab": {piece: i for i, piece in enumerate(vocabulary)},
            "merges": [],
        },
    }


def _from_json(text: str, where: str) -> Tokenizer:
    """A tokenizer from the content of a ``tokenizer.json``, token ids looked up by content."""
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{where} is not a tokenizer.json: {error}") from error
    added = {token.content: i for i, token in backend.get_added_tokens_decoder().items()}
    missing = [token for token in (UNK_TEXT, BOS_TEXT, EOS_TEXT) if token not in added]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}: every LLaMA vocabulary has them")
    _check_vocabulary(backend, where)
    return Tokenizer(
        backend=backend,
        bos=added[BOS_TEXT],
        eos=added[EOS_TEXT],
        unk=added[UNK_TEXT],
        seg=tuple(sorted(i for content, i in added.items() if _SEG_PATTERN.fullmatch(content))),
        rej=added.get(REJ_TEXT),
        im_start=added.get(IM_START_TEXT),
        im_end=added.get(IM_END_TEXT),
        added=frozenset(added.values()),
        vocab_size=backend.get_vocab_size(with_added_tokens=True),
    )


def _check_vocabulary(backend: tokenizers.Tokenizer, where: str) -> None:
    """Raises ValueError unless ids are numbered through, and text becomes ids and the same text again."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if sorted(set(vocabulary.values())) != list(range(backend.get_vocab_size(with_added_tokens=True))):
        raise ValueError(f"{where}: the ids of its {len(vocabulary)} tokens are not numbered through from 0")
    try:
        found = backend.decode(backend.encode(_SENTENCE, add_special_tokens=False).ids, skip_special_tokens=False)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{where}: does not work ({error})") from error
    if found != _SENTENCE:
        raise ValueError(f"{where}: not of LLaMA's kind, {_SENTENCE!r} becomes {found!r}")
