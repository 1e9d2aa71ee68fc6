"""Every job of a command line is composed before any of them starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from esper.cli.flags import parse_flags
from esper.cli.plan import Plan, make_plan
from esper.config import TolariaConfig
from esper.errors import ConfigError


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan_of(*argv: str) -> Plan:
    return make_plan(parse_flags(argv))


def problems_of(*argv: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan_of(*argv)
    return caught.value.problems


def test_one_run_has_a_folder_of_its_own_to_the_microsecond() -> None:
    first, second = plan_of(), plan_of()
    assert not first.sweep
    assert first.folder != second.folder
    assert first.folder.parts[0] == "outputs"
    assert len(first.folder.name) == len("12-34-56.123456")
    assert first.jobs[0].folder == first.folder
    assert first.jobs[0].config.run_dir is None
    assert not first.named
    assert f"hydra.run.dir='{first.folder}'" in first.master.hydra.overrides.hydra
    assert first.master.hydra.run.dir == str(first.folder)


def test_the_defaults_need_no_download_and_use_their_recipe() -> None:
    """The recipe of the dataset is loaded, and the command line still wins."""
    [job] = plan_of().jobs
    assert (job.config.dataset.name, job.config.model.architecture) == ("digits", "convnet")
    assert job.config.morphogenetic.adaptation_cooldown == 0.0
    assert job.config.model.num_classes is None
    [other] = plan_of("dataset=fashion_mnist", "optimization.max_epochs=3").jobs
    assert other.config.dataset.batch_size == 128
    assert other.config.optimization.max_epochs == 3


def test_the_strict_preset() -> None:
    [job] = plan_of("experiment=strict").jobs
    m = job.config.morphogenetic
    assert (m.urgency_threshold, m.max_adaptations_per_epoch) == (0.6, 3)


@pytest.mark.parametrize(
    "argv", [["run_dir=my/run"], ["hydra.run.dir=my/run"], ["run_dir=my/run", "hydra.run.dir=my/run"]]
)
def test_a_folder_that_the_user_names(argv: list[str]) -> None:
    plan = plan_of(*argv)
    assert plan.folder == Path("my/run")
    assert plan.named
    assert plan.jobs[0].folder == Path("my/run")


@pytest.mark.parametrize("name", ["it's", "a b", "x,y", "${now:}", 'quo"te', "back\\slash", "tail\\", "ü=1"])
def test_any_folder_name_reaches_hydra_unchanged(name: str) -> None:
    config = TolariaConfig(run_dir=name)
    Path("d").mkdir()
    config.to_yaml("d/mine.yaml")
    plan = plan_of("--config-dir", "d", "--config-name", "mine")
    assert plan.folder == Path(name)
    lines = OmegaConf.to_container(plan.master.hydra.overrides.hydra, resolve=False)
    pinned = [str(line) for line in lines or () if str(line).startswith("hydra.run.dir")]
    assert plan.master.hydra.run.dir == name
    again = make_plan(parse_flags(pinned))
    assert again.folder == Path(name)


def test_two_names_for_the_folder_have_to_agree() -> None:
    assert problems_of("run_dir=a", "hydra.run.dir=b")[0].startswith("run_dir: given 'a'")
    assert problems_of("run_dir=''")[0].startswith("run_dir: given ''")


def test_a_sweep_is_every_combination_in_one_folder() -> None:
    plan = plan_of("-m", "seed=1,2", "optimization.optimizer=adam,sgd", "session_name=x")
    assert plan.sweep and plan.complete
    assert [(job.number, job.config.seed, job.config.optimization.optimizer) for job in plan.jobs] == [
        (0, 1, "adam"),
        (1, 1, "sgd"),
        (2, 2, "adam"),
        (3, 2, "sgd"),
    ]
    assert [job.folder for job in plan.jobs] == [plan.folder / str(n) for n in range(4)]
    assert plan.folder.parts[:2] == ("outputs", "multirun")
    assert plan.jobs[1].overrides == ("seed=1", "optimization.optimizer=sgd", "session_name=x")


def test_ranges_choices_and_the_mode_in_hydra() -> None:
    assert [job.config.seed for job in plan_of("-m", "seed=range(3)").jobs] == [0, 1, 2]
    assert len(plan_of("hydra.mode=MULTIRUN", "model=choice(convnet,mlp)").jobs) == 2
    assert len(plan_of("-m", "seed=1").jobs) == 1


def test_a_sweep_may_stand_in_a_file() -> None:
    Path("d").mkdir()
    Path("d/sweep.yaml").write_text("hydra: {mode: MULTIRUN, sweeper: {params: {seed: '4,5'}}}\n")
    plan = plan_of("--config-dir", "d", "--config-name", "sweep")
    assert [job.config.seed for job in plan.jobs] == [4, 5]
    Path("d/sweep.yaml").write_text("hydra: {sweeper: {params: {sed: '4,5'}}}\n")
    assert problems_of("-m", "--config-dir", "d", "--config-name", "sweep")[0].endswith("nearest: seed")


def test_each_job_sees_its_own_number_and_folder() -> None:
    plan = plan_of(
        "-m",
        "seed=1,2",
        "session_name=job_${hydra:job.num}",
        "session_description=${hydra:runtime.output_dir}",
    )
    assert [job.config.session_name for job in plan.jobs] == ["job_0", "job_1"]
    assert plan.jobs[1].config.session_description.endswith("/1")


def test_problems_of_all_jobs_are_collected_what_they_share_once() -> None:
    plan = plan_of("-m", "seed=1,2", "session_name=x")
    found = plan.collect(
        lambda job: ["shared", *([f"seed is {job.config.seed}"] if job.config.seed == 2 else [])]
    )
    assert found == ["shared", "job 1 (seed=2 session_name=x): seed is 2"]


def test_an_interpolation_that_fails_in_one_job_belongs_to_it() -> None:
    plan = plan_of("-m", "session_name=x,${nothing}")
    assert plan.jobs[0].problems == ()
    [text] = plan.jobs[1].problems
    assert text.startswith("session_name: given an interpolation that cannot be resolved")


def test_several_values_without_multirun() -> None:
    found = problems_of("seed=1,2", "model=convnet,mlp")
    assert [text.partition(":")[0] for text in found] == ["seed", "model"]
    assert all("--multirun" in text for text in found)


@pytest.mark.parametrize(
    "argv", [["-m", "run_dir=a,b"], ["-m", "hydra.sweep.dir=a,b"], ["-m", "hydra.job.name=a,b"]]
)
def test_folders_and_hydra_cannot_be_swept(argv: list[str]) -> None:
    [text] = problems_of(*argv)
    assert "cannot be swept" in text


# -- one YAML file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mine", "config", "schema", "from_file"])
def test_a_saved_file_runs_as_it_was_saved(name: str) -> None:
    """Whatever its name, also one that a shipped file has."""
    config = TolariaConfig(seed=7, session_description="costs ${5}, \\${6}")
    config.optimization.optimizer_params = {"betas": [0.5, 0.6]}
    config.morphogenetic.policy = {"_target_": "random", "latest": 0.25}
    config.run_dir = "somewhere"
    Path("d").mkdir()
    config.to_yaml(f"d/{name}.yaml")
    [job] = plan_of("--config-dir", "d", "--config-name", name).jobs
    assert job.config == config
    assert job.problems == ()
    [changed] = plan_of("--config-dir", "d", "--config-name", f"{name}.yaml", "seed=8", "model=mlp").jobs
    assert (changed.config.seed, changed.config.model.architecture) == (8, "mlp")


def test_a_file_of_a_few_options_takes_the_defaults_of_the_library() -> None:
    Path("d").mkdir()
    Path("d/few.yaml").write_text("seed: 3\noptimization: {max_epochs: 2}\n")
    [job] = plan_of("--config-dir", "d", "--config-name", "few", "dataset.batch_size=5").jobs
    expected = TolariaConfig(seed=3)
    expected.optimization.max_epochs, expected.dataset.batch_size = 2, 5
    assert job.config == expected
    assert job.folder.parts[0] == "outputs"


def test_a_file_with_a_defaults_list_extends_the_shipped_configuration() -> None:
    Path("d/model").mkdir(parents=True)
    Path("d/model/tiny.yaml").write_text("architecture: convnet\nmodel_params: {widths: [2]}\n")
    Path("d/own.yaml").write_text("defaults: [config, {override model: tiny}, _self_]\nseed: 9\n")
    [job] = plan_of("--config-dir", "d", "--config-name", "own").jobs
    assert (job.config.seed, job.config.model.model_params) == (9, {"widths": [2]})
    assert job.config.dataset.name == "digits"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sed: 3\n", "sed: given an unknown key"),
        ("optimization: {learning_rat: 3}\n", "nearest: optimization.learning_rate"),
        ("seed: x\n", "seed: given 'x', expected a whole number"),
        ("a: [1", "cannot be read as a configuration"),
        ("- 1\n", "expected a dictionary"),
        ("defaults: [nothing]\n", "nothing"),
        ("defaults: [{model: resnet19}]\n", "model: given 'resnet19'"),
    ],
)
def test_a_file_that_is_wrong(content: str, message: str) -> None:
    Path("d").mkdir()
    Path("d/bad.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        plan_of("--config-dir", "d", "--config-name", "bad")


@pytest.mark.parametrize(
    "argv",
    [["--config-dir", "nowhere", "--config-name", "x"], ["--config-dir", ".", "--config-name", "confg"]],
)
def test_a_file_that_is_not_there(argv: list[str]) -> None:
    [text] = problems_of(*argv)
    assert text.startswith("--config-")
