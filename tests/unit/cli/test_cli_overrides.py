"""Each override against groups and schema; all that is wrong is found, and nothing that is right."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from esper.cli.composer import Composer
from esper.cli.flags import Flags
from esper.cli.overrides import override_problems
from esper.config import TolariaConfig
from esper.config.serialization import option_names, options

COMPOSER = Composer(Flags())
GROUPS = COMPOSER.groups(())
NAMES = list(option_names(TolariaConfig))


def problems_of(*lines: str) -> list[str]:
    return override_problems(lines, GROUPS, OverridesParser.create())


def test_all_groups_are_known() -> None:
    own = {name for name in GROUPS if name.partition("/")[0] != "hydra"}
    assert own == {
        "callbacks",
        "checkpoint",
        "dataset",
        "debug",
        "experiment",
        "logging",
        "model",
        "morphogenetic",
        "morphogenetic/policy",
        "optimization",
        "recipe",
        "services",
        "trainer",
    }
    assert "basic" in GROUPS["hydra/launcher"]


@pytest.mark.parametrize(
    "line",
    [
        "seed=1",
        "++seed=1",
        "optimization.learning_rate=1e-3",
        "optimization.learning_rate=1",
        "optimization.gradient_clip_norm=null",
        "dataset.download=false",
        "model.target_layers=[a,b]",
        "model=mlp",
        "model={seeds_per_layer: 2}",
        "~experiment",
        "recipe=cifar10",
        "+optimization.optimizer_params.betas=[0.1,0.2]",
        "+model.model_params={widths: [1, 2]}",
        "morphogenetic.policy.seeds=[{layer: a}]",
        "session_name=${now:%Y}",
        "optimization.max_epochs=${seed}",
        "hydra.run.dir=x",
        "+hydra.callbacks.x.y=1",
        "hydra/launcher=basic",
        "seed=1,2,3",
        "seed=range(1,4)",
        "optimization.learning_rate=interval(0.1,0.5)",
        "mixed_precision=bf16",
        "mixed_precision=true",
        "logging.wandb_entity=123",
    ],
)
def test_overrides_that_are_right(line: str) -> None:
    assert problems_of(line) == []


def test_one_sentence_for_each_wrong_override() -> None:
    found = problems_of("seed=1", "sed=2", "seed=x", "model=resnet19", "seed", "a.b=3")
    assert [text.partition(": given")[0] for text in found] == ["sed", "seed", "model", "seed", "a.b"]


@pytest.mark.parametrize("key", NAMES)
def test_the_default_of_every_option_may_be_given_and_its_misspelling_not(key: str) -> None:
    value = options(TolariaConfig())[key]
    if isinstance(value, bool | int | float):
        assert problems_of(f"{key}={str(value).lower()}") == []
    # every sign with a quarter of the options: the nearest name is looked for after the sign is taken off
    sign = ("", "+", "++", "~")[NAMES.index(key) % 4]
    wrong = f"{sign}{key}q=1" if sign != "~" else f"~{key}q"
    [text] = problems_of(wrong)
    assert text.startswith(f"{key}q: given an unknown key")
    assert text.endswith(f"nearest: {key}")


@given(st.text(max_size=30))
def test_no_text_at_all_makes_it_fail(line: str) -> None:
    """Whatever stands on the command line is either right or one sentence."""
    found = problems_of(line)
    assert len(found) <= 1
    assert all(": " in text and text.strip() for text in found)
