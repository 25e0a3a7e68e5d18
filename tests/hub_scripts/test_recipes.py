"""`coma recipes` lists what comes with the package, and prints what `--config` reads."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hub_scripts.finetune import _parse as finetune
from hub_scripts.pretrain import _parse as pretrain
from hub_scripts.recipes import FOLDER, list_recipes


def test_every_recipe_has_a_line(coma_command: Callable) -> None:
    code, text, _ = coma_command("recipes")
    lines = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert code == 0 and lines.keys() == {path.stem for path in FOLDER.glob("*.yaml")} >= {"pairs-finetune"}
    assert max(map(len, text.splitlines())) <= 119
    assert all(line[0].isupper() and line.endswith(".") for line in lines.values())


def test_a_recipe_is_of_one_training() -> None:
    assert set(list_recipes()) == set(list_recipes("pretrain")) | set(list_recipes("finetune"))
    assert list_recipes("pretrain") and not set(list_recipes("pretrain")) & set(list_recipes("finetune"))


@pytest.mark.parametrize("name", list_recipes())
def test_what_is_printed_is_what_the_name_stands_for(name: str, coma_command: Callable, tmp_path: Path) -> None:
    code, text, _ = coma_command("recipes", name)
    assert code == 0
    (tmp_path / "my.yaml").write_text(text)
    parse = pretrain if name in list_recipes("pretrain") else finetune
    words = ["--model", "m", "--data", "d", "--bf16", "false"]
    printed, packaged = (parse(["--config", config, *words]) for config in (str(tmp_path / "my.yaml"), name))
    assert printed[0] == packaged[0] and printed[1].to_dict() == packaged[1].to_dict()


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_works_on_a_cpu_or_says_what_to_change(name: str) -> None:
    text = list_recipes()[name].read_text()
    needs_gpu = yaml.safe_load(text).get("bf16", False)
    assert ("Without a GPU: `bf16: false`" in text) == ("GPUs" in text.partition("\n")[0]) == needs_gpu


def test_pairs_of_ones_own_are_trained_on_a_cpu(
    coma_folder: Path, coma_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Callable
) -> None:
    """What its first lines say to do: print it, change five lines. The others stay."""
    monkeypatch.chdir(tmp_path)
    rows = ["title,photo"]
    for number in range(4):
        picture(28, 28, number).save(f"{number}.png")
        rows.append(f"image {number},{number}.png")
    Path("mine.csv").write_text("\n".join(rows))
    own = {"model": str(coma_folder), "data": "mine.csv", "query_text": "title", "positive_image": "photo"}
    lines = coma_command("recipes", "pairs-finetune")[1].splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    assert [line.partition(":")[0] for line in lines[first : first + 5]] == [*own, "output_dir"]
    own["output_dir"] = "out"
    lines[first : first + 5] = [f"{name}: {value}" for name, value in own.items()]
    Path("my.yaml").write_text("\n".join(lines))
    code, text, error = coma_command("finetune", "--config", "my.yaml", "--max_steps", 1, "--use_cpu")
    assert code == 0 and "trained  out" in text, error


def test_a_name_that_is_none_is_said(coma_command: Callable, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        coma_command("recipes", "pair-finetune")
    assert stop.value.code == 2 and "did you mean pairs-finetune?" in capsys.readouterr().err
