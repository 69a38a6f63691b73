"""A user's mistakes in the graph end in one line that names what is wrong, and leave nothing half-written."""

import pytest


def last_error(done):
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["data"].pop("root"), "params.yaml: key data.root is missing"),
        (lambda p: p["data"].update(siize=3), "params.yaml: key data.siize is unknown"),
    ],
)
def test_mistakes_in_params_yaml_are_one_line(fresh, change, message):
    params = fresh.params
    change(params)
    fresh.write_params(params)
    done = fresh.run("python", "-m", "pipeline.stages.ingest", expect=2)
    assert message in last_error(done)
    assert not (fresh.folder / "data/processed").exists()


def test_stages_out_of_order_name_what_is_missing(fresh):
    for command in (["train_teacher", "densenet"], ["teach", "densenet"], ["evaluate"], ["explain"], ["report"]):
        done = fresh.run("python", "-m", f"pipeline.stages.{command[0]}", *command[1:], expect=2)
        assert "no such file" in last_error(done)


def test_an_unknown_teacher_names_the_known_ones(fresh):
    done = fresh.run("python", "-m", "pipeline.stages.train_teacher", "densnet", expect=2)
    assert "teachers has no 'densnet'; known are densenet, efficientnet_lite2" in last_error(done)


def test_a_damaged_image_is_quarantined_and_the_run_goes_on(fresh):
    fresh.run("python", "-m", "pipeline.stages.phantom")
    image = sorted((fresh.folder / "data/raw/phantom/images").iterdir())[3]
    image.write_bytes(image.read_bytes()[:100])
    fresh.run("python", "-m", "pipeline.stages.ingest")
    quarantine = (fresh.folder / "data/processed/quarantine.csv").read_text().splitlines()
    assert len(quarantine) == 2
    assert image.name in quarantine[1]


def test_a_folder_that_is_not_there(fresh):
    params = fresh.params
    params["data"]["root"] = "data/nowhere"
    fresh.write_params(params)
    assert "data/nowhere" in last_error(fresh.run("python", "-m", "pipeline.stages.ingest", expect=2))
