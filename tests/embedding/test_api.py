"""The Python model: one unit vector a file, what it says about itself, and how it is loaded and saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cmmixer
from cmmixer.data import chunks as chunks_module
from cmmixer.embedding.api import Model, from_pretrained, load
from cmmixer.embedding.pipeline import both_modalities, embed_file
from cmmixer.errors import CheckpointError, MediaError, SettingsError
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, ColourEncoder, sound, unit, video
from tests.support.killed_indexing import decode_here
from tests.support.small_runs import PICO, untrained_run


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "map_sandboxed", decode_here)


@pytest.fixture
def model() -> Model:
    return Model(ColourEncoder())


def test_every_file_has_one_unit_vector(model: Model, tmp_path: Path) -> None:
    paths = [video(tmp_path / "a.mp4", [RED]), video(tmp_path / "b.mp4", [GREEN, BLUE])]
    frames_nE, sound_nE = model.encode_video(paths), model.encode_audio([str(path) for path in paths])
    for vectors_nE in (frames_nE, sound_nE):
        assert (vectors_nE.dtype, vectors_nE.shape) == (np.float32, (2, 4))
        assert np.allclose(np.linalg.norm(vectors_nE, axis=1), 1.0, atol=1e-6)
    assert frames_nE[0] @ unit(RED) > 0.985
    assert frames_nE[1] @ unit((0.0, 0.5, 0.5)) > 0.97
    assert (frames_nE * sound_nE).sum(1).min() > 0.97


def test_a_vector_is_the_normalized_mean_over_the_moments(model: Model, tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", [RED, GREEN, BLUE])
    moments = embed_file(path, model.encoder)
    assert len(moments) == 5
    for encode, modality in ((model.encode_video, "video"), (model.encode_audio, "audio"), (model.encode, "any")):
        mean_E = np.sum([getattr(moment, modality).astype(np.float64) for moment in moments], axis=0) / 5
        (vector_E,) = encode([path])
        np.testing.assert_allclose(vector_E, mean_E / np.sqrt((mean_E**2).sum()), atol=1e-6)


def test_encode_fuses_both_modalities_or_takes_the_one_there_is(model: Model, tmp_path: Path) -> None:
    paths = [
        video(tmp_path / "both.mp4", [RED], sound=[GREEN]),
        video(tmp_path / "silent.mp4", [RED], sound=None),
        sound(tmp_path / "sound.wav", [GREEN]),
    ]
    middle_E = unit(RED) + unit(GREEN)
    vectors_nE = model.encode(paths)
    np.testing.assert_allclose(vectors_nE, [middle_E / np.linalg.norm(middle_E), unit(RED), unit(GREEN)], atol=0.05)
    np.testing.assert_allclose(np.linalg.norm(vectors_nE, axis=1), 1.0, atol=1e-6)


def test_order_is_that_of_the_paths(model: Model, tmp_path: Path) -> None:
    paths = [video(tmp_path / f"{name}.mp4", [colour]) for name, colour in (("a", RED), ("b", GREEN), ("c", BLUE))]
    np.testing.assert_array_equal(model.encode(paths)[::-1], model.encode(paths[::-1]))


def test_no_paths_give_no_vectors(model: Model) -> None:
    assert model.encode([]).shape == model.encode_video([]).shape == model.encode_audio([]).shape == (0, 4)


@pytest.mark.parametrize("path", ["a.mp4", Path("a.mp4")])
def test_a_single_path_is_refused(model: Model, path: str | Path) -> None:
    for encode in (model.encode, model.encode_video, model.encode_audio):
        with pytest.raises(SettingsError) as refused:
            encode(path)  # type: ignore[arg-type]
        assert str(refused.value) == "encode: got one path, expected a list of paths; write ['a.mp4']"


def test_a_file_that_cannot_be_used_fails_the_call(model: Model, tmp_path: Path) -> None:
    good = video(tmp_path / "good.mp4", [RED], sound=None)
    with pytest.raises(MediaError, match=r"gone\.mp4: no such file"):
        model.encode_video([good, tmp_path / "gone.mp4"])
    with pytest.raises(MediaError, match=r"good\.mp4: has no audio stream, only video"):
        model.encode_audio([good])
    silence = sound(tmp_path / "silence.wav", [(0.0, 0.0, 0.0)])
    with pytest.raises(MediaError, match=r"silence\.wav: it is silent from beginning to end"):
        model.encode([silence])


def test_model_describes_itself(model: Model) -> None:
    assert (model.dim, model.id, model.path, model.clip) == (4, ColourEncoder().id, "runs/colours", CLIP)
    assert repr(model) == (
        f"Model('runs/colours', id={ColourEncoder().id[:16]}, dim=4, clip=2 frames of 16 x 16 in 1 s)"
    )


def test_run_is_loaded_by_its_path(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", PICO)
    for path in (run, str(run)):
        model = load(path, device="cpu")
        assert (model.dim, model.clip) == (16, PICO)
        assert model.path.startswith(str(run))
        assert len(model.id) == 64
    with pytest.raises(CheckpointError, match="nowhere"):
        load(tmp_path / "nowhere", device="cpu")


def test_saved_model_gives_the_same_vectors(tmp_path: Path) -> None:
    model = load(untrained_run(tmp_path / "run", PICO), device="cpu")
    path = video(tmp_path / "a.mp4", [RED, BLUE])
    folder = model.save_pretrained(tmp_path / "saved")
    assert folder == tmp_path / "saved"
    again = from_pretrained(folder, device="cpu")
    assert again.id == model.id
    np.testing.assert_array_equal(again.encode([path]), model.encode([path]))
    with pytest.raises(CheckpointError, match="saved"):
        model.save_pretrained(folder)


def test_encoders_of_other_packages_cannot_be_saved(model: Model, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        model.save_pretrained(tmp_path / "saved")
    assert str(refused.value) == "runs/colours: is an encoder of another package; only finetune runs are saved"
    with pytest.raises(SettingsError, match="only finetune runs are uploaded"):
        model.push_to_hub("owner/name")


def test_fused_vector_is_the_normalized_sum() -> None:
    video_E, audio_E = unit(RED).astype(np.float32), unit(BLUE).astype(np.float32)
    total_E = [float(a) + float(b) for a, b in zip(video_E, audio_E, strict=True)]
    length = sum(value * value for value in total_E) ** 0.5
    assert both_modalities(video_E, audio_E).tolist() == pytest.approx([value / length for value in total_E], abs=1e-7)
    assert both_modalities(video_E, None).tolist() == pytest.approx(video_E.tolist(), abs=1e-7)
    assert both_modalities(None, audio_E).tolist() == pytest.approx(audio_E.tolist(), abs=1e-7)
    with pytest.raises(ValueError, match="got neither a video nor an audio vector"):
        both_modalities(None, None)


def test_public_names_are_these() -> None:
    assert (cmmixer.load, cmmixer.from_pretrained, cmmixer.Model) == (load, from_pretrained, Model)
