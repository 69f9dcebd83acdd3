"""The probe: labels and folds are checked first, nothing is tested that was learnt, figures are those of the definitions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from cmmixer import checkpoint
from cmmixer.analysis.features import PlainStatistics, TowerFeatures, file_features
from cmmixer.analysis.labels import Labelled, read_labelled
from cmmixer.analysis.linear_probe import START_STRENGTH, cross_validated, figures, regression
from cmmixer.analysis.probe import probe
from cmmixer.analysis.probe_finetune import Finetuning
from cmmixer.config import ClipSettings, ProbeSettings
from cmmixer.data import clips as lengths_module
from cmmixer.data import moments as moments_module
from cmmixer.data.manifest import Entry
from cmmixer.data.memmap import spool_clips
from cmmixer.data.skips import SkipReport
from cmmixer.errors import CheckpointError, DataError
from cmmixer.media.decode import read_clip
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.patches import frame_parts, pictures_to_patches, strip_grid
from cmmixer.progress import NoProgress
from cmmixer.train.pretrain import pretrain
from cmmixer.types import Span
from tests.support import killed_indexing
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, film, sound
from tests.support.small_runs import PICO, random_clips, untrained_run
from tests.train.test_loop import pretrain_settings

COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}
SMALL = ClipSettings(frames=2, height=32, width=32, clip_seconds=1.0, window_seconds=0.4, sample_rate_hz=8000)


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (moments_module, lengths_module):
        monkeypatch.setattr(module, "map_isolated", killed_indexing.decode_here)


def table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def coloured(folder: Path, per_class: int = 6) -> Path:
    """Films of three colours with the tones that go with them, somewhat darker or brighter each, in three folds."""
    chance, rows = np.random.default_rng(0), []
    for name, colour in COLOURS.items():
        for number in range(per_class):
            level = float(chance.uniform(0.6, 1.0))
            shade = (level * colour[0], level * colour[1], level * colour[2])
            film(folder / f"{name}-{number}.mp4", [shade])
            rows.append(
                {"path": f"{name}-{number}.mp4", "colour": name, "fold": 1 + number % 3, "take": f"{name}{number}"}
            )
    return table(folder, rows)


@pytest.mark.parametrize("task", ["audio", "video", "audiovisual"])
def test_colours_and_tones_are_told_apart_by_plain_statistics_and_untrained_towers(tmp_path: Path, task: str) -> None:
    data = coloured(tmp_path / "films")
    run = untrained_run(tmp_path / "run", SMALL)
    settings = ProbeSettings(
        model=str(run), data=str(data), task=task, label="colour", source="take", out=str(tmp_path / "out"), workers=1
    )
    report = probe(settings)
    found = report.result
    assert (found["files"], found["skipped"], found["folds"], found["metric"]) == (18, 0, ["1", "2", "3"], "accuracy")
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["statistics"]["accuracy"] >= 0.9
    assert found["trained"]["accuracy"] >= 0.6
    assert np.array(found["trained"]["confusion"]).sum() == 18
    assert json.loads((tmp_path / "out" / "probe.json").read_text()) == found
    assert (tmp_path / "out" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "skipped.json").read_text())["files"] == []


def test_a_broken_file_is_listed_and_the_rest_is_used(tmp_path: Path) -> None:
    data = coloured(tmp_path / "films", per_class=9)
    (tmp_path / "films" / "red-0.mp4").write_bytes(b"no film")
    settings = ProbeSettings(
        model=str(untrained_run(tmp_path / "run", SMALL)), data=str(data), task="video", label="colour",
        out=str(tmp_path / "out"), workers=1,
    )  # fmt: skip
    report = probe(settings)
    assert (report.result["files"], report.result["skipped"]) == (26, 1)
    assert "red-0.mp4" in (tmp_path / "out" / "skipped.txt").read_text()


def test_features_are_the_mean_token_of_the_run_s_own_encoder(tmp_path: Path) -> None:
    pretrain(pretrain_settings(tmp_path / "pre", epochs=1), dataset=random_clips(8))
    towers = TowerFeatures.of_run(str(tmp_path / "pre"), torch.device("cpu"))
    card = checkpoint.load_card(tmp_path / "pre")
    network = checkpoint.build(card)
    network.load_state_dict(checkpoint.load_weights(tmp_path / "pre"))
    clips = random_clips(3)
    pixels, windows = torch.from_numpy(clips.video_NTCHW), torch.from_numpy(clips.audio_NTS)
    frontend, grid = FrontEnd(PICO, card.statistics), strip_grid(PICO.height, PICO.width, PICO.frames, 16)
    assert frame_parts(PICO.frames, grid, 16, device=pixels.device).shape == (2, 8)
    for got, pictures in (
        (towers.describe_video(pixels), frontend.video(pixels)),
        (towers.describe_audio(windows), frontend.audio(windows)),
    ):
        tokens = network.encoder.encode(pictures_to_patches(pictures, 16), grid).tokens_BND[:, 1:]
        torch.testing.assert_close(got, tokens.mean(1), rtol=0, atol=1e-5)
    untrained = TowerFeatures.untrained(str(tmp_path / "pre"), 0, torch.device("cpu"))
    assert not torch.allclose(untrained.describe_video(pixels), towers.describe_video(pixels))


def test_plain_statistics_are_means_and_spreads_over_time() -> None:
    clips = random_clips(2)
    windows, pixels = torch.from_numpy(clips.audio_NTS), torch.from_numpy(clips.video_NTCHW)
    plain = PlainStatistics(PICO)
    bands = plain.mel(windows)[1, :, 0].permute(1, 0, 2).reshape(PICO.height, -1)
    expected = torch.cat([bands.mean(1), bands.std(1, correction=0)])
    torch.testing.assert_close(plain.describe_audio(windows)[1], expected)
    field = pixels[1, :, 2, 8:16, 24:32].float().mean((1, 2)) / 255  # blue, second row, last column of 4 x 4
    place = 2 * 16 + 1 * 4 + 3
    found = plain.describe_video(pixels)[1]
    assert found[place].item() == pytest.approx(field.mean().item(), abs=1e-6)
    assert found[48 + place].item() == pytest.approx(field.std(correction=0).item(), abs=1e-6)


def _labelled(truth: np.ndarray, folds: np.ndarray) -> Labelled:
    entries = [Entry(path=f"{row}", name=f"{row}", source=f"{row}") for row in range(len(truth))]
    names = [f"c{place}" for place in range(truth.shape[1])]
    several = bool((truth.sum(1) > 1).any())
    return Labelled(entries, names, truth, folds, [str(fold) for fold in sorted(set(folds.tolist()))], several)


def test_what_is_tested_was_not_learnt() -> None:
    """Features that name the file: learnt by heart they give every training label and no other."""
    chance = np.random.default_rng(0)
    truth = np.eye(2, dtype=bool)[chance.integers(0, 2, 60)]
    labelled = _labelled(truth, np.arange(60) % 5)
    by_heart = figures(cross_validated(np.eye(60), labelled), labelled, resamplings=10)
    assert by_heart["accuracy"] < 0.65
    told = figures(
        cross_validated(truth[:, :1] + 0.1 * chance.normal(size=(60, 1)), labelled), labelled, resamplings=10
    )
    assert told["accuracy"] == 1.0


def test_figures_of_one_class_a_file_by_hand() -> None:
    truth = np.eye(2, dtype=bool)[[0, 0, 0, 1]]
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    found = figures(scores, _labelled(truth, np.array([0, 0, 1, 1])), resamplings=200)
    assert found["accuracy"] == 0.75
    assert found["folds"] == {"0": 1.0, "1": 0.5}
    assert found["confusion"] == [[2, 1], [0, 1]]
    assert found["classes"]["c0"] == {
        "precision": 1.0,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(0.8),
        "files": 3,
    }
    assert found["interval"][0] <= 0.75 <= found["interval"][1]


def test_files_of_several_classes_give_a_mean_average_precision() -> None:
    chance = np.random.default_rng(1)
    truth = chance.random((90, 3)) < 0.4
    labelled = _labelled(truth, np.arange(90) % 3)
    assert labelled.several
    found = figures(cross_validated(truth + 0.3 * chance.normal(size=truth.shape), labelled), labelled, resamplings=20)
    assert found["mAP"] > 0.9
    assert found["mAP"] == pytest.approx(np.mean([each["average_precision"] for each in found["classes"].values()]))
    # Average precision of one class: the mean, over its files, of the precision among those scored at least as high.
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    one = np.array([[True, False], [False, True], [True, True], [False, True]])
    both = np.stack([scores, 1 - scores], axis=1)
    by_hand = figures(both, _labelled(one, np.array([0, 1, 0, 1])), resamplings=2)
    assert by_hand["classes"]["c0"]["average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)


def rows(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (
            rows(path=["a.wav", "b.wav"], kind=["x", "y"]),
            {},
            r"2 of 2 files have no label in column 'label', such as a.wav; say which column with --label \(other columns: kind\)",
        ),
        (
            rows(path=["a.wav", "b.wav"], label=["x", "x"]),
            {},
            "only one class, 'x', in column 'label'; a classifier needs two",
        ),
        (
            rows(path=["a.wav", "b.wav"], label=["x", "y"], fold=["1", "1"]),
            {},
            "only one fold, '1', in column 'fold'; leave --fold out",
        ),
        (
            rows(path=["a.wav", "b.wav", "c.wav"], label=["x", "y", "x"], fold=["1", "2", "2"], src=["s", "s", "t"]),
            {"source": "src"},
            "source 's' is in folds '1' and '2'; a source must be in one",
        ),
        (
            rows(path=["a.wav", "b.wav", "c.wav"], label=["x", "y", "x"], fold=["1", "1", "2"]),
            {},
            "fold '2' has no file of class 'y'; every class must be in every fold",
        ),
        (
            rows(path=["a.wav", "b.wav"], label=["x", "y"], fold=["1", ""]),
            {},
            "some files have no fold in column 'fold', such as b.wav",
        ),
    ],
)
def test_labels_and_folds_are_checked_before_anything_is_decoded(
    tmp_path: Path, content: list[dict[str, Any]], options: dict[str, str], told: str
) -> None:
    data = table(tmp_path, content)
    settings = ProbeSettings(model=str(tmp_path / "no run"), data=str(data), **options)
    with pytest.raises(DataError, match=told):
        probe(settings)


def test_made_folds_hold_every_class_and_cut_through_no_source(tmp_path: Path) -> None:
    content = [
        {"path": f"{label}{source}{part}.wav", "label": label, "source": f"{label}{source}"}
        for label in "xyz"
        for source in range(10)
        for part in range(2)
    ]
    found = read_labelled(str(table(tmp_path, content)), label="label", fold="fold", source="source", folds=5, seed=0)
    for fold in range(5):
        chosen = found.folds_F == fold
        assert found.truth_FC[chosen].sum(0).tolist() == [4, 4, 4]
    by_source = {entry.source: set() for entry in found.entries}
    for entry, fold in zip(found.entries, found.folds_F.tolist(), strict=True):
        by_source[entry.source].add(fold)
    assert all(len(folds) == 1 for folds in by_source.values())


def test_a_class_of_one_source_cannot_be_tested(tmp_path: Path) -> None:
    content = rows(path=["a.wav", "b.wav", "c.wav", "d.wav"], label=["x", "x", "y", "y"], source=["s", "s", "t", "u"])
    settings = ProbeSettings(model="no run", data=str(table(tmp_path, content)), folds=2)
    with pytest.raises(DataError, match="all files of class 'x' are of one source; a class needs two"):
        probe(settings)
    rare = rows(path=["a.wav", "b.wav", "c.wav", "d.wav"], label=["x", "x", "y", "y"], source=["r", "s", "t", "u"])
    found = read_labelled(str(table(tmp_path, rare)), label="label", fold="fold", source="source", folds=3, seed=0)
    assert found.made  # two sources in three folds: absent from one, and that is fine


def test_sounds_alone_are_enough(tmp_path: Path) -> None:
    content = []
    for name, colour in COLOURS.items():
        for number in range(6):
            sound(tmp_path / f"{name}{number}.wav", [colour], seconds_each=1.0 + 0.5 * (number % 2))
            content.append({"path": f"{name}{number}.wav", "label": name})
    settings = ProbeSettings(
        model=str(untrained_run(tmp_path / "run", CLIP)), data=str(table(tmp_path, content)), task="audio", folds=3,
        out=str(tmp_path / "out"), workers=1,
    )  # fmt: skip
    assert probe(settings).result["statistics"]["accuracy"] == 1.0


def finetuning(tmp_path: Path, data: Path, **options: Any) -> ProbeSettings:
    values = {
        "model": str(tmp_path / "run"), "data": str(data), "task": "audiovisual", "mode": "finetune", "label": "colour",
        "source": "take", "clips": 2, "epochs": 2, "batch_size": 6, "out": str(tmp_path / "out"), "workers": 1,
        "bootstrap": 10, "flip_prob": 0.0, "crop_scale_min": 1.0, "gain_db": 0.0,
    }  # fmt: skip
    return ProbeSettings(**{**values, **options})


def sounds_of(folder: Path, *, short: int, start: str = "") -> Path:
    """24 tones of 1 s but for the first `short` ones of each class, which last 0.5 s."""
    content = []
    for name, colour in COLOURS.items():
        for number in range(8):
            sound(folder / f"{name}{number}.wav", [colour], seconds_each=0.5 if number < short else 1.0)
            content.append({"path": f"{name}{number}.wav", "label": name, "start_seconds": start})
    return table(folder, content)


@pytest.mark.parametrize("mode", ["linear", "finetune"])
def test_files_shorter_than_a_clip_are_refused_before_anything_is_learnt(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("nothing is decoded before the lengths are known")

    monkeypatch.setattr(moments_module, "decode_piece", decoded)
    data, run = sounds_of(tmp_path, short=2), untrained_run(tmp_path / "run", SMALL)
    settings = ProbeSettings(
        model=str(run), data=str(data), task="audio", mode=mode, out=str(tmp_path / "out"), folds=2
    )
    told = (
        r"manifest.csv: 6 of 24 files are shorter than a clip of this model, 1 s, such as red0.wav \(0.50 s; all of them 0.50 to "
        r"0.50 s\); --short use takes each as one clip of its own length, --short skip leaves them out, or probe a model of shorter clips"
    )
    with pytest.raises(DataError, match=told):
        probe(settings)
    assert not (tmp_path / "out").exists()


def test_short_files_are_used_or_left_out_on_request_and_long_ones_are_no_matter(tmp_path: Path) -> None:
    data, run = sounds_of(tmp_path, short=2), untrained_run(tmp_path / "run", SMALL)
    options: dict[str, Any] = {
        "model": str(run),
        "data": str(data),
        "task": "audio",
        "folds": 2,
        "workers": 1,
        "bootstrap": 10,
    }
    used = probe(ProbeSettings(**options, short="use", out=str(tmp_path / "used"))).result
    assert (used["files"], used["short"], used["skipped"]) == (24, 6, 0)
    kept = probe(ProbeSettings(**options, short="skip", out=str(tmp_path / "kept"))).result
    assert (kept["files"], kept["short"], kept["skipped"]) == (18, 0, 6)
    listed = json.loads((tmp_path / "kept" / "skipped.json").read_text())["files"]
    assert {(skip["reason"], skip["message"]) for skip in listed} == {
        ("too-short", "it lasts 0.50 s, a clip takes 1 s")
    }
    assert probe(ProbeSettings(**{**options, "data": str(sounds_of(tmp_path / "long", short=0))})).result["short"] == 0


def test_a_stretch_counts_as_long_as_it_is(tmp_path: Path) -> None:
    data, run = sounds_of(tmp_path, short=0, start="0.25"), untrained_run(tmp_path / "run", SMALL)
    settings = ProbeSettings(model=str(run), data=str(data), task="audio", out=str(tmp_path / "out"), short="skip")
    with pytest.raises(DataError, match=r"24 of 24 files are shorter .* such as red0.wav \(0.75 s; .*; none is left"):
        probe(settings)


def test_towers_are_trained_on_and_tested_on_what_they_did_not_see(tmp_path: Path) -> None:
    data = coloured(tmp_path / "films")
    (tmp_path / "films" / "red-0.mp4").write_bytes(b"no film")
    untrained_run(tmp_path / "run", SMALL)
    settings = finetuning(tmp_path, data)
    result = probe(settings).result
    assert (result["mode"], result["files"], result["skipped"]) == ("finetune", 17, 1)
    assert result["trained"]["accuracy"] >= 0.8
    assert "red-0.mp4" in (tmp_path / "out" / "skipped.txt").read_text()
    folders = sorted(path.name for path in (tmp_path / "out" / "trained").iterdir())
    assert folders == ["fold-0", "fold-1", "fold-2"]
    card = checkpoint.load_card(tmp_path / "out" / "trained" / "fold-1")
    assert card.options["classes"] == ["blue", "green", "red"]
    # Five or six files of each class are learnt from, two clips of one second each... of films of one second: one.
    assert (card.kind, card.parent) == ("classifier", checkpoint.load_card(tmp_path / "run").model_id)
    assert list((tmp_path / "out").glob(".clips*")) == []


def test_a_finished_probe_is_not_trained_again_and_another_one_is_refused(tmp_path: Path) -> None:
    data = coloured(tmp_path / "films", per_class=3)
    untrained_run(tmp_path / "run", SMALL)
    first = probe(finetuning(tmp_path, data, batch_size=3)).result
    weights = tmp_path / "out" / "trained" / "fold-0" / "latest"
    written = weights.stat().st_mtime_ns
    again = probe(finetuning(tmp_path, data, batch_size=3)).result
    assert weights.stat().st_mtime_ns == written
    assert again["trained"] == first["trained"]
    with pytest.raises(CheckpointError, match=r"holds a classifier of another probe \(other sense_dropout\)"):
        probe(finetuning(tmp_path, data, batch_size=3, sense_dropout=0.3))
    with pytest.raises(CheckpointError, match=r"holds a classifier of another probe \(other lr\)"):
        probe(finetuning(tmp_path, data, batch_size=3, lr=1e-3))
    fold = tmp_path / "out" / "trained" / "fold-0"
    with pytest.raises(
        CheckpointError, match=r"got a classifier \(from `cmmixer probe --mode finetune`\), expected a retr"
    ):
        probe(finetuning(tmp_path, data, batch_size=3, model=str(fold)))
    other = checkpoint.build(checkpoint.load_card(tmp_path / "run"), seed=7)
    checkpoint.save(tmp_path / "run", checkpoint.load_card(tmp_path / "run"), other.state_dict(), keep=1)
    with pytest.raises(CheckpointError, match=r"holds a classifier of another probe \(other model\)"):
        probe(finetuning(tmp_path, data, batch_size=3))


def test_fine_tuning_starts_at_the_linear_probe_and_averages_probabilities_over_clips(tmp_path: Path) -> None:
    """With no step size worth the name the scores are those of a regression on the training clips' features."""
    folder = tmp_path / "films"
    chance, content = np.random.default_rng(0), []
    for name, colour in COLOURS.items():
        for number in range(4):
            shades = [tuple(float(chance.uniform(0.4, 1.0)) * part for part in colour) for _ in range(2)]
            film(folder / f"{name}-{number}.mp4", shades)
            content.append({"path": f"{name}-{number}.mp4", "colour": name, "fold": 1 + number % 2})
    data = table(folder, content)
    untrained_run(tmp_path / "run", SMALL)
    settings = finetuning(tmp_path, data, task="video", lr=1e-12, weight_decay=0.0, epochs=1, batch_size=4, clips=3)
    labelled = read_labelled(str(data), label="colour", fold="fold", source="source", folds=5, seed=0)
    card = checkpoint.load_card(tmp_path / "run")
    towers = TowerFeatures.of_run(str(tmp_path / "run"), torch.device("cpu"))
    clips = spool_clips(
        labelled.entries, card.clip, tmp_path / "spool", even=3, picture=True, sound=False, workers=1,
        file_seconds=30.0, progress=NoProgress(),
    )  # fmt: skip
    finder = Finetuning(settings, labelled, clips, ("video",), card, NoProgress())
    got = finder.scores(towers.model, "trained")
    with torch.no_grad():
        features = towers.describe_video(torch.from_numpy(np.array(clips.pixels_RTCHW))).double().numpy()
    truth = labelled.truth_FC[clips.files_R].argmax(1)
    folds = labelled.folds_F[clips.files_R]
    expected = np.zeros_like(got)
    for fold in range(2):
        train, test = folds != fold, folds == fold
        mean, spread = features[train].mean(0), features[train].std(0)
        model = LogisticRegression(max_iter=2000, C=START_STRENGTH)
        model.fit((features[train] - mean) / spread, truth[train])
        odds = model.predict_proba((features[test] - mean) / spread)
        for file in np.unique(clips.files_R[test]):
            expected[file] = odds[clips.files_R[test] == file].mean(0)
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert got.sum(1) == pytest.approx(np.ones(12))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_regression_s_logits_give_its_probabilities(classes: int) -> None:
    chance = np.random.default_rng(0)
    truth = np.eye(classes, dtype=bool)[np.arange(60) % classes]
    features = chance.normal(size=(60, 5)) + 2 * truth @ chance.normal(size=(classes, 5))
    weights, biases = regression(features, truth, several=False)
    logits = torch.from_numpy(features @ weights.T + biases)
    expected = (
        LogisticRegression(max_iter=2000, C=START_STRENGTH).fit(features, truth.argmax(1)).predict_proba(features)
    )
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, atol=1e-6)
    # A class that no training clip has is never named, and one that every clip has always.
    absent = np.concatenate([truth, np.zeros((60, 1), bool)], axis=1)
    weights, biases = regression(features, absent, several=False)
    assert (features @ weights.T + biases).argmax(1).max() < classes
    always = np.concatenate([truth, np.ones((60, 1), bool)], axis=1)
    weights, biases = regression(features, always, several=True)
    assert (features @ weights.T + biases)[:, -1].min() > 3


def test_a_kinetics_list_is_probed_by_ten_clips_of_each_film(tmp_path: Path) -> None:
    """`path label` lines; what is classified is the mean over ten clips evenly along the film."""
    chance, lines = np.random.default_rng(0), []
    for name, colour in COLOURS.items():
        for number in range(4):
            shades = [tuple(float(chance.uniform(0.3, 1.0)) * part for part in colour) for _ in range(3)]
            film(tmp_path / "films" / f"{name}-{number}.mp4", shades)
            lines.append(f"films/{name}-{number}.mp4 {name}")
    (tmp_path / "train.list").write_text("\n".join(lines) + "\n")
    untrained_run(tmp_path / "run", SMALL)
    settings = ProbeSettings(
        model=str(tmp_path / "run"), data=str(tmp_path / "train.list"), task="video", folds=2, workers=1,
        out=str(tmp_path / "out"), bootstrap=10,
    )  # fmt: skip
    result = probe(settings).result
    assert (result["files"], result["clips"], result["short"]) == (12, 10, 0)
    assert result["statistics"]["accuracy"] == 1.0
    entries = read_labelled(settings.data, label="label", fold="fold", source="source", folds=2, seed=0).entries
    plain = PlainStatistics(SMALL)
    found = file_features(
        entries[:1], {"plain": plain}, SMALL, "video", clips=10, workers=1, file_seconds=30.0, skips=SkipReport(),
        progress=NoProgress(),
    )  # fmt: skip
    described = []
    for number in range(10):
        start = number * 2.0 / 9
        clip = read_clip(entries[0].path, Span(start, start + 1.0), SMALL, id="x", source="x", file_seconds=30.0)
        assert clip.frames is not None
        described.append(plain.describe_video(torch.from_numpy(clip.frames.pixels_THWC.transpose(0, 3, 1, 2)[None])))
    np.testing.assert_allclose(found.columns["plain"][0], torch.cat(described).double().mean(0).numpy(), atol=1e-6)
