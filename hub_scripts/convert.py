"""Between our format and that of plain vision-language checkpoints whose tokenizer has compression tokens.

The published CoMa checkpoints are Qwen2.5-VL weights with tokens <|ctoken_pad_0|>, <|ctoken_pad_1|> … after the text:
the mean of the last hidden states at these tokens, L2-normalised, is the embedding. Made ours, they load as all models
here do. The way back, --to-backbone, is for tools that know the backbone and do not know CoMa: the chat template ends
with the tokens, and the modules of sentence-transformers pool. `SentenceTransformer("plain-coma")` needs nothing of
ours; how engines serve it is in docs/engines.md.

--to-multi-vector makes a copy that `MultiVectorEncoder("my-vectors", trust_remote_code=True)` of sentence-transformers
loads: several vectors of an input, compared by MaxSim, as many as the model was trained with
(late_interaction_budgets; of several budgets the last) or as --vectors says.

  coma convert 404-not-founds/CoMa-3B my-coma --max-pixels 802816
  coma convert my-coma plain-coma --to-backbone
  coma convert my-coma my-vectors --to-multi-vector

To and from a plain checkpoint, embeddings of a text and of an image are computed both ways and compared before
anything is left. For several vectors a model stays as it is, and other files lie beside it.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from hub_scripts.common.arguments import DTYPES, Dtype, command_parser, positive
from hub_scripts.common.terminal import one_line
from hub_scripts.hub.golden import RELOADED


if TYPE_CHECKING:
    from torch import nn
    from transformers import BatchFeature, ProcessorMixin

    from modeling_coma import ComaConfig, ComaForEmbedding, ComaProcessor


__all__ = ["Conversion", "convert_model", "convert_to_multi_vector", "main"]

OF_THE_MODEL = "--to-… takes pooling and pixels from the model"


def main(argv: list[str]) -> int:
    """Runs `coma convert`; returns the exit code."""
    parser = command_parser("convert", __doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="a plain checkpoint, or with --to-… a CoMa model: folder or Hub name")
    add("out", metavar="OUT", type=Path, help="folder to be made")
    to = parser.add_mutually_exclusive_group().add_argument
    to("--to-backbone", action="store_true", help="make a plain checkpoint of a CoMa model")
    to("--to-multi-vector", action="store_true", help="make a MultiVectorEncoder of a CoMa model")
    several = "with it: states of a document, or of a query and a document, as 2x4 (default: as trained)"
    add("--vectors", metavar="N|QxN", help=several)
    add("--any-vectors", action="store_true", help="--vectors that the model was not trained for, as well")
    add("--pooling", choices=("mean", "last"), help="how the checkpoint was trained to be read (default: mean)")
    add("--min-pixels", type=positive, metavar="N", help="images are enlarged to this (default: as the checkpoint)")
    add("--max-pixels", type=positive, metavar="N", help="images are shrunk to this (default: as the checkpoint)")
    add("--dtype", choices=DTYPES, default="auto", help="of the weights; auto is that of the checkpoint")
    add("--revision", help="branch, tag or commit on the Hub")
    arguments = parser.parse_args(argv)
    has_own = arguments.pooling or arguments.min_pixels or arguments.max_pixels
    if has_own and (arguments.to_backbone or arguments.to_multi_vector):
        parser.error(OF_THE_MODEL)
    options = vars(arguments)
    several = {"vectors": options.pop("vectors"), "any_vectors": options.pop("any_vectors")}
    if options.pop("to_multi_vector"):
        if arguments.revision:
            parser.error("--revision is for plain checkpoints; of a CoMa model, download the revision first")
        queries, documents = convert_to_multi_vector(arguments.model, arguments.out, dtype=arguments.dtype, **several)
        print(f"made  {one_line(arguments.out)}, {queries} vectors of a query and {documents} of a document")
        return 0
    if several["vectors"] or several["any_vectors"]:
        parser.error("--vectors are those of --to-multi-vector")
    converted = convert_model(**options)
    print(f"converted  {one_line(arguments.out)}, {converted.num_compression_tokens} compression tokens")
    print(f"largest difference of an embedding, before and after: {converted.difference:.1e}")
    if converted.several_images > RELOADED:
        how = "its own processor does not make of them what it makes of each alone"
        print(
            f"several images in one input: embeddings of stock tools are {converted.several_images:.1e} away, as {how}"
        )
    return 0


class Conversion(NamedTuple):
    """
    What [`convert_model`] has made.

    Args:
        num_compression_tokens (`int`): K.
        difference (`float`): how far an embedding is from what it was before, as a share of its length.
        several_images (`float`): how far that of an input with several images is, where the backbone's own processor
            makes them; some make other tokens of several images than of each alone.
    """

    num_compression_tokens: int
    difference: float
    several_images: float = 0.0


def convert_model(
    model: str | Path,
    out: str | Path,
    *,
    to_backbone: bool = False,
    pooling: Literal["mean", "last"] | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    dtype: Dtype = "auto",
    revision: str | None = None,
) -> Conversion:
    """
    Makes a CoMa model of a plain checkpoint whose tokenizer has compression tokens, or the other way round. A plain
    checkpoint has no room for the projection of a memory of states: it embeds as before, and answers nothing.

    Args:
        model (`str` or `Path`): the plain checkpoint, or the CoMa model: a folder, or a name on the Hub.
        out (`str` or `Path`): folder to be made.
        to_backbone (`bool`, *optional*, defaults to `False`): make a plain checkpoint of a CoMa model, which says
            itself how it pools and how large images are.
        pooling (`str`, *optional*): how the plain checkpoint was trained to be read, by default `"mean"`.
        min_pixels, max_pixels (`int`, *optional*): of an image, by default as the checkpoint has it.
        dtype (`str`, *optional*, defaults to `"auto"`): of the weights, by default that of the checkpoint.
        revision (`str`, *optional*): branch, tag or commit of a plain checkpoint on the Hub.

    Returns:
        [`Conversion`]

    Raises:
        ValueError: for what is not of the one format, settings that do not act, something that is at `out` already,
            and a model that embeds differently afterwards.

    Example:

        >>> from hub_scripts.convert import convert_model
        >>> convert_model("404-not-founds/CoMa-3B", "my-coma", max_pixels=802816)
        >>> convert_model("my-coma", "plain-coma", to_backbone=True)
    """
    from hub_scripts.common.folders import new_folder, save_model
    from hub_scripts.common.loading import load_model
    from hub_scripts.create import create_model

    name = str(model)
    if to_backbone:
        if revision is not None:
            raise ValueError("--revision is for plain checkpoints; of a CoMa model, download the revision first.")
        if pooling or min_pixels or max_pixels:
            raise ValueError(f"{OF_THE_MODEL}: leave them out.")
        coma, processor = load_model(name, dtype, "cpu")
        with new_folder(Path(out)) as folder:
            differences = _save_plain(coma, processor, folder)
        return Conversion(coma.config.num_compression_tokens, *differences)
    count = _count_tokens(name, revision)
    with new_folder(Path(out)) as folder:
        settings = {"min_pixels": min_pixels, "max_pixels": max_pixels, "dtype": dtype, "revision": revision}
        coma, processor = create_model(name, count, pooling or "mean", **settings)
        difference = _compare(coma, processor, coma.backbone)
        save_model(coma, processor, folder)
    return Conversion(count, difference)


def convert_to_multi_vector(
    model: str | Path,
    out: str | Path,
    *,
    vectors: int | str | None = None,
    any_vectors: bool = False,
    dtype: Dtype = "auto",
) -> tuple[int, int]:
    """
    Makes a copy of a CoMa model that `MultiVectorEncoder(out, trust_remote_code=True)` loads.

    Args:
        model (`str` or `Path`): the CoMa model or adapter: a folder, or a name on the Hub.
        out (`str` or `Path`): folder to be made.
        vectors (`int` or `str`, *optional*): how many states of a document are compared, with as many of a query as
            in the training, or `"2x4"`, two of a query and four of a document; by default the last budget of the
            training.
        any_vectors (`bool`, *optional*, defaults to `False`): whether to take others than those of the training.
        dtype (`str`, *optional*, defaults to `"auto"`): of the weights, by default that of the model.

    Returns:
        `tuple[int, int]`: states of a query and of a document.

    Raises:
        ValueError: for vectors that the model was not trained for, and for something that is at `out` already.

    Example:

        >>> from hub_scripts.convert import convert_to_multi_vector
        >>> convert_to_multi_vector("my-coma", "my-vectors", vectors="2x4")
    """
    from hub_scripts.common.folders import new_folder, save_model
    from hub_scripts.common.loading import load_model
    from hub_scripts.hub.multi_vector_files import write_multi_vector_files
    from hub_scripts.hub.trained_dims import checked_budgets, trained_budgets

    name = str(model)
    if vectors is None:
        trained = trained_budgets(name)
        if not trained:
            raise ValueError(f"{name} has no record of a training with late_interaction_budgets: give --vectors.")
        vectors = "{}x{}".format(*trained[-1])
    coma, processor = load_model(name, dtype, "cpu")
    ((queries, documents),) = checked_budgets(name, [vectors], coma.config.num_compression_tokens, any_vectors)
    with new_folder(Path(out)) as folder:
        write_multi_vector_files(folder, queries, documents)
        save_model(coma, processor, folder, trained_in=Path(name))
    return queries, documents


def _save_plain(model: "ComaForEmbedding", processor: "ComaProcessor", folder: Path) -> tuple[float, float]:
    """The backbone as it is published: weights, its processor with a template that ends with the tokens, and modules
    that pool. Differences as in [`Conversion`]."""
    from transformers import AutoModelForImageTextToText

    from hub_scripts.hub.stock_modules import write_stock_modules
    from hub_scripts.hub.stock_template import check_template, stock_template

    processor.tokenizer.chat_template = stock_template(processor)
    check_template(processor)
    model.backbone.save_pretrained(folder)
    write_stock_modules(folder, model.config, processor)
    if processor.stock_processor is None:
        _save_parts(processor, model.config.backbone_config.model_type, folder)
    else:
        processor.stock.chat_template = processor.tokenizer.chat_template
        processor.stock.save_pretrained(folder)
    # The last token of a row is then the last one of a batch. A tokenizer saves what it was loaded with.
    _change(folder / "tokenizer_config.json", padding_side="left")
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=model.dtype).eval()
    if processor.stock_processor is None:  # which counts patches, of every image alone
        return _compare(model, processor, plain), 0.0
    return _compare(model, processor, plain, stock=processor.stock), _compare_several(model, processor, plain)


def _save_parts(processor: "ComaProcessor", model_type: str, folder: Path) -> None:
    """Tokenizer and image processor, of which the processor of a backbone is made."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    for name in ("tokenizer_config.json", "preprocessor_config.json"):  # both say that they are parts of ours
        _change(folder / name, processor_class=PROCESSOR_MAPPING_NAMES[model_type])


def _change(file: Path, **settings: str) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | settings
    content.pop("auto_map", None)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _count_tokens(name: str, revision: str | None) -> int:
    """Number of compression tokens in the tokenizer of a checkpoint, whose embedding matrix must have their rows."""
    from transformers import AutoConfig, AutoTokenizer

    from hub_scripts.common.loading import check_folder
    from modeling_coma.processing_coma import compression_tokens

    check_folder(name)
    config = AutoConfig.from_pretrained(name, revision=revision)
    if config.model_type == "coma":
        raise ValueError(f"{name} is in our format already; the other way is --to-backbone.")
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    known = tokenizer.get_vocab()
    tokens = compression_tokens(256)
    count = next((index for index, token in enumerate(tokens) if token not in known), len(tokens))
    if not count:
        raise ValueError(f"The tokenizer of {name} has no {tokens[0]}: `coma create {name} OUT` adds new ones.")
    last, rows = known[tokens[count - 1]], config.get_text_config().vocab_size
    if last >= rows:
        raise ValueError(f"{name} has {rows} rows of embeddings and none for its token {tokens[count - 1]} ({last}).")
    return count


def _compare(
    model: "ComaForEmbedding", processor: "ComaProcessor", plain: "nn.Module", stock: "ProcessorMixin | None" = None
) -> float:
    """How far embeddings of the model are from what is read off the plain backbone by hand, at most; the inputs are
    made by the processor, or by that of the backbone."""
    from hub_scripts.hub.golden import TOLERANCES, distances, golden_embeddings, golden_inputs

    items = golden_inputs().values()
    rows = [processor.process([item]) if stock is None else _rows_of_stock(stock, item) for item in items]
    by_hand = [_embed_plain(plain, model.config, row) for row in rows]
    difference = max(distances(golden_embeddings(model, processor), by_hand))
    dtype = str(model.dtype).removeprefix("torch.")
    if difference > TOLERANCES[dtype]:
        raise ValueError(f"Before and after, embeddings differ by {difference:.1e} in {dtype}: nothing was converted.")
    return difference


def _compare_several(model: "ComaForEmbedding", processor: "ComaProcessor", plain: "nn.Module") -> float:
    """The same, by the processor of the backbone, of an input with two images between texts."""
    import torch

    from hub_scripts.hub.golden import distances, golden_inputs

    image, question = golden_inputs()["an image and a text"][0]["content"]
    item = [{"role": "user", "content": [question, image, question, image]}]
    with torch.no_grad():
        expected = model(**processor.process([item])).embeddings
    return distances([_embed_plain(plain, model.config, _rows_of_stock(processor.stock, item))], expected)[0]


def _rows_of_stock(stock: "ProcessorMixin", messages: list[dict]) -> "BatchFeature":
    """What the processor of a backbone makes of messages by itself."""
    return stock.apply_chat_template([messages], tokenize=True, return_dict=True, return_tensors="pt")


def _embed_plain(plain: "nn.Module", config: "ComaConfig", inputs: "BatchFeature") -> list[float]:
    """An embedding as the published checkpoints describe it, without anything of ours."""
    import torch
    from torch.nn.functional import normalize

    from modeling_coma.backbone_coma import token_types

    types = token_types(plain, inputs["input_ids"] == config.backbone_config.image_token_id)
    with torch.no_grad():
        states = plain.model(**{**inputs, **types}, use_cache=False).last_hidden_state[0].float()
    states = states[-config.num_compression_tokens :]
    embedding = states.mean(dim=0) if config.pooling == "mean" else states[-1]
    return (normalize(embedding, dim=0) if config.normalize else embedding).tolist()
