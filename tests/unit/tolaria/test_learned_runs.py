"""The learned policy in real runs: each becomes one episode with its germinations, also if it is resumed."""

from __future__ import annotations

from pathlib import Path

from helpers.runs import make_run, notes_of

from esper.leyline import SystemStatePacket
from esper.tamiyo import LearnedPolicy
from esper.tamiyo.episodes import EpisodeStore
from esper.tolaria.loop import TrainingLoop

OPTIONS = {
    "model__target_layers": [".", "block1", "block2"],
    "morphogenetic__blueprints": ["conv_light", "conv_branch"],
    "morphogenetic__decision_interval_epochs": 0.5,
    "morphogenetic__urgency_threshold": 0.0,
    "morphogenetic__max_adaptations_per_epoch": 9,
}


def grown(folder: Path, memory: Path, seed: int, **options: object) -> TrainingLoop:
    policy = LearnedPolicy(memory=str(memory), seed=seed)
    run = make_run(folder, tamiyo=policy, seed=seed, **{**OPTIONS, **options})
    run.train()
    return run


def test_runs_become_episodes_with_the_features_of_what_they_planted(tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    runs = [grown(tmp_path / str(seed), memory, seed) for seed in range(2)]
    episodes = EpisodeStore(memory).read()
    assert len(episodes) == 2 and episodes[0].task == episodes[1].task
    for run, episode in zip(runs, episodes, strict=True):
        applied = [e for e in notes_of(run).named("adaptation_applied") if e.data["kind"] == "germinate"]
        assert applied and len(episode.seeds) == len(applied)
        for event, features in zip(applied, episode.seeds, strict=True):
            assert features[f"blueprint {event.data['blueprint']}"] == 1.0
            assert all(0.0 <= value <= 10.0 for value in features.values())


def test_the_same_run_again_is_the_same_and_takes_its_own_place(tmp_path: Path) -> None:
    runs = [grown(tmp_path / name, tmp_path / name / "memory.json", 3) for name in ("one", "two")]
    assert notes_of(runs[0]).comparable() == notes_of(runs[1]).comparable()
    memory = tmp_path / "one" / "memory.json"
    grown(tmp_path / "three", tmp_path / "none.json", 3)
    first = EpisodeStore(memory).read()
    EpisodeStore(memory).add(EpisodeStore(tmp_path / "none.json").read()[0])
    assert EpisodeStore(memory).read() == first


def test_a_run_that_stops_early_is_an_episode_and_one_that_is_stopped_is_none(tmp_path: Path) -> None:
    patient = {"optimization__early_stopping_patience": 1, "optimization__early_stopping_min_delta": 9.0}
    run = grown(tmp_path / "early", tmp_path / "early.json", 0, optimization__max_epochs=9, **patient)
    assert run.progress.stopped_by == "early_stopping"
    assert len(EpisodeStore(tmp_path / "early.json").read()) == 1
    policy = LearnedPolicy(memory=str(tmp_path / "none.json"))
    stopped = make_run(tmp_path / "stopped", tamiyo=policy, **OPTIONS)
    stopped.epoch()
    assert policy._germinated
    stopped.run_control.stop("signal")
    stopped.train()
    assert stopped.progress.stopped_by == "signal" and not (tmp_path / "none.json").exists()


def test_a_policy_whose_end_fails_does_not_fail_the_run(tmp_path: Path) -> None:
    class Failing(LearnedPolicy):
        def finish(self, packet: SystemStatePacket) -> None:
            raise OSError("the disk of the memory is gone")

    policy = Failing(memory=str(tmp_path / "m.json"))
    run = make_run(tmp_path / "run", tamiyo=policy, **OPTIONS)
    run.train()
    (event,) = notes_of(run).named("tolaria.tamiyo_error")
    assert "the disk of the memory is gone" in event.data["reason"]
