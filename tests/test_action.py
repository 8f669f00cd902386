"""What others run deepscan with: the GitHub Action, the pre-commit hook, the container file."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from deepscan.archive.inputs.listing import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from deepscan.archive.reports.sarif import write_sarif
from deepscan.options import ScanOptions
from deepscan.types import Label
from tests.archive.reports.test_reports import outcome, results
from tests.conftest import make_face_clip

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
HOOK = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())[0]
CONTAINER = (ROOT / "Containerfile").read_text()
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")


# The action


def test_the_action_is_a_composite_one_and_documents_everything():
    assert ACTION["runs"]["using"] == "composite"
    assert {"path", "args", "version", "fail-on", "sarif"} <= ACTION["inputs"].keys()
    for each in (*ACTION["inputs"].values(), *ACTION["outputs"].values()):
        assert each["description"]
    assert all(isinstance(each["default"], str) for each in ACTION["inputs"].values())
    for step in STEPS.values():
        assert ("run" in step) != ("uses" in step)
        assert "shell" in step or "uses" in step  # composite steps have no default shell


def test_every_expression_of_the_action_names_something_that_is_there():
    scripts = {step["id"]: step["run"] for step in STEPS.values() if "id" in step}
    found = EXPRESSION.findall((ROOT / "action.yml").read_text())
    assert len(found) > 15
    for expression in found:
        for name in re.findall(r"inputs\.([\w-]+)", expression):
            assert name in ACTION["inputs"], expression
        for step, output in re.findall(r"steps\.(\w+)\.outputs\.([\w-]+)", expression):
            assert f"{output}=" in scripts[step] or output in ACTION["outputs"], expression


def test_no_input_is_pasted_into_a_script():
    for step in STEPS.values():
        assert not EXPRESSION.search(step.get("run", ""))


def run_step(name, folder, stand_in="", **given):
    """A shell step as the runner runs it, with `deepscan` replaced by a script."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "deepscan").write_text(f"#!/bin/bash\nprintf '%s\\n' \"$@\" > args\n{stand_in}\n")
    (tools / "deepscan").chmod(0o755)
    (tools / "python").unlink(missing_ok=True)
    (tools / "python").symlink_to(sys.executable)
    output = folder / "output"
    output.touch()
    ran = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]],
        cwd=folder, env={"PATH": f"{tools}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(output),
                         "GITHUB_ACTION_PATH": str(ROOT), **given},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = dict(line.split("=", 1) for line in output.read_text().splitlines())
    args = (folder / "args").read_text().splitlines() if (folder / "args").exists() else None
    return ran, said, args


def inputs(**given):
    """The variables of the scan step, with the defaults of the inputs."""
    defaults = {name: each["default"] for name, each in ACTION["inputs"].items()}
    values = {**defaults, **{key.replace("_", "-"): value for key, value in given.items()}}
    names = {}
    for variable, expression in STEPS["Scan"]["env"].items():
        name = EXPRESSION.fullmatch(expression)[1].strip().removeprefix("inputs.")
        names[variable] = values[name]
    return names


WRITES = """
mkdir -p deepscan-results
printf '{"label":"manipulated"}\\n{"label":"no-evidence"}\\n{"label":"error"}\\n' \\
    > deepscan-results/results.jsonl
printf '{"schema":"deepscan.passed-over/1","passed_over":{".py":1}}\\n' \\
    >> deepscan-results/results.jsonl
touch deepscan-results/results.sarif deepscan-results/summary.html
exit 1
"""


def test_the_scan_step_reports_and_leaves_the_verdict_to_the_last_step(tmp_path):
    ran, said, args = run_step("Scan", tmp_path, WRITES, **inputs())
    assert ran.returncode == 0, ran.stderr
    assert said == {
        "exit-code": "1", "files": "3", "manipulated": "1", "suspicious": "0",
        "inconclusive": "0", "errors": "1", "results": "deepscan-results",
        "summary": "deepscan-results/summary.html", "sarif": "deepscan-results/results.sarif",
    }  # fmt: skip
    assert said.keys() == ACTION["outputs"].keys()
    assert args[0] == "scan" and args[-2:] == ["--", "."]
    assert args[args.index("--fail-on") + 1] == "manipulated"
    last = run_step("Verdict", tmp_path, CODE=said["exit-code"])[0]
    assert last.returncode == 1
    assert run_step("Verdict", tmp_path, CODE="0")[0].returncode == 0


def test_a_scan_that_fails_before_any_result(tmp_path):
    ran, said, _ = run_step("Scan", tmp_path, "exit 2", **inputs())
    assert ran.returncode == 0
    assert (said["exit-code"], said["files"], said["sarif"]) == ("2", "0", "")


def test_paths_and_arguments_stay_what_they_are(tmp_path):
    (tmp_path / "a folder" / "with blanks").mkdir(parents=True)
    for name in ("x.mp4", "-odd.mp4", "$(touch hacked)", "`touch hacked`"):
        (tmp_path / name).touch()
    values = inputs(
        path="a folder/with blanks\n\n  \n*.mp4\n-odd.mp4\n$(touch hacked)\n`touch hacked`",
        args="--stride 2   --include *.mp4\n--exclude $(touch_hacked) ;touch hacked",
        fail_on="suspicious",
    )
    ran, _, args = run_step("Scan", tmp_path, **values)
    assert ran.returncode == 0, ran.stderr
    cut = args.index("--")
    assert args[cut + 1 :] == [
        "a folder/with blanks", "*.mp4", "-odd.mp4", "$(touch hacked)", "`touch hacked`",
    ]  # fmt: skip
    assert args[args.index("--stride") :cut] == [
        "--stride", "2", "--include", "*.mp4", "--exclude", "$(touch_hacked)", ";touch", "hacked",
    ]  # fmt: skip
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("level", "option"), [("never", "--exit-zero"), ("suspicious", "--fail-on")]
)
def test_fail_on(tmp_path, level, option):
    assert option in run_step("Scan", tmp_path, **inputs(fail_on=level))[2]


def test_fail_on_something_else_is_an_error(tmp_path):
    ran, _, args = run_step("Scan", tmp_path, **inputs(fail_on="all"))
    assert ran.returncode == 2 and args is None


def test_a_repository_without_media_passes_and_a_mistyped_path_does_not(tmp_path):
    assert "--allow-empty" in run_step("Scan", tmp_path, **inputs())[2]
    (tmp_path / "media").mkdir()
    assert "--allow-empty" not in run_step("Scan", tmp_path, **inputs(path="media\n"))[2]
    (tmp_path / "args").unlink()
    for level in ("manipulated", "never"):
        ran, _, args = run_step("Scan", tmp_path, **inputs(path="media\nmedai", fail_on=level))
        assert ran.returncode == 2 and args is None
        assert "::error::path: medai does not exist" in ran.stdout


def test_a_matrix_value_begins_the_category(tmp_path):
    args = run_step("Scan", tmp_path, **inputs(sarif_category="macos 14"))[2]
    assert args[args.index("--sarif-category") + 1] == "macos 14"
    upload = STEPS["Upload to code scanning"]["with"]
    assert "category" not in upload  # it would replace that of every part


def collect(folder, *logs):
    """The step that collects parts, over parts that a scan could have left."""
    for number, log in enumerate(logs, start=1):
        name = "results.sarif" if number == 1 else f"results-{number}.sarif"
        (folder / name).write_text(json.dumps(log))
    given = {"SARIF": str(folder / "results.sarif"), "FOLDER": str(folder / "upload")}
    ran, said, _ = run_step("Collect SARIF", folder, **given)
    assert ran.returncode == 0, ran.stderr
    assert said == {"folder": str(folder / "upload")}
    parts = {path.name: json.loads(path.read_text()) for path in (folder / "upload").iterdir()}
    return ran, parts


def log(*findings):
    return {"version": "2.1.0", "runs": [{"results": [{"ruleId": each} for each in findings]}]}


def test_every_part_is_uploaded_without_what_was_accepted(tmp_path):
    accepted = log("manipulated", "suspicious")
    accepted["runs"][0]["results"][0]["suppressions"] = [{"kind": "external"}]
    (tmp_path / "results-of-others.sarif").write_text("{}")
    ran, parts = collect(tmp_path, accepted, log("inconclusive"))
    assert parts == {"results.sarif": log("suspicious"), "results-2.sarif": log("inconclusive")}
    assert "::warning::" not in ran.stderr


def test_what_passes_the_limits_of_an_upload_is_left_out_and_said(tmp_path):
    ran, parts = collect(tmp_path, *(log(str(number)) for number in range(23)))
    assert len(parts) == 20 and "results-21.sarif" not in parts
    assert "::warning::3 of 23 SARIF parts" in ran.stderr
    noise = random.Random(0)
    large = [log(noise.randbytes(3_500_000).hex()) for _ in range(4)]
    ran, parts = collect(tmp_path, *large)
    assert sorted(parts) == ["results-2.sarif", "results.sarif"]
    assert sum(len(gzip.compress(json.dumps(each).encode())) for each in parts.values()) < 10**7


def test_parts_of_a_real_scan_are_collected(tmp_path):
    found = [outcome(Label.SUSPICIOUS, f"{n}.mp4", sha256=f"{n:064x}") for n in range(5_001)]
    write_sarif(results(tmp_path, *found), tmp_path / "results.sarif", category="linux")
    parts = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.sarif"))]
    _, collected = collect(tmp_path, *parts[::-1])  # "results-2" sorts before "results."
    ids = {each["runs"][0]["automationDetails"]["id"] for each in collected.values()}
    assert ids == {"linux/deepscan/", "linux/deepscan/part-2/"}
    assert sum(len(each["runs"][0]["results"]) for each in collected.values()) == 5_001


@pytest.mark.parametrize(
    ("version", "what"), [("", str(ROOT)), ("v1.2", "git+https://host/owner/name@v1.2")]
)
@pytest.mark.parametrize("index", ["", "https://torch/cpu"])
def test_the_install_step_takes_the_action_or_a_version(tmp_path, version, what, index):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python").write_text("#!/bin/bash\nprintf '%s\\n' \"$@\" > pip-args\n")
    (tools / "python").chmod(0o755)
    subprocess.run(
        ["bash", "-eo", "pipefail", "-c", STEPS["Install deepscan"]["run"]],
        cwd=tmp_path, check=True, timeout=30,
        env={"PATH": f"{tools}:{os.environ['PATH']}", "VERSION": version,
             "REPOSITORY": "https://host/owner/name", "TORCH_INDEX": index,
             "GITHUB_ACTION_PATH": str(ROOT)},
    )  # fmt: skip
    args = (tmp_path / "pip-args").read_text().splitlines()
    assert args[-1] == what
    assert args.count(index) == ("--extra-index-url" in args) == bool(index)
    assert (str(ROOT / "constraints.txt") in args) == (not version)


def test_the_cache_is_that_of_pip(tmp_path):
    ran, said, _ = run_step("Find the cache of pip", tmp_path, HOME=str(tmp_path))
    assert ran.returncode == 0 and Path(said["folder"]).is_absolute()
    cache = STEPS["Cache what pip downloads"]
    assert cache["with"]["path"] == "${{ steps.pip.outputs.folder }}"
    names = list(STEPS)
    assert names.index("Cache what pip downloads") < names.index("Install deepscan")


def test_the_options_that_the_action_uses_exist(deepscan_cli):
    text = " ".join(deepscan_cli("--help-all").out.split())
    for option in re.findall(r"--[a-z][a-z-]+", STEPS["Scan"]["run"]):
        assert option in text
    assert "sarif" in text and "jsonl" in text


def test_the_python_that_it_installs_is_supported():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    version = ACTION["inputs"]["python-version"]["default"]
    from packaging.specifiers import SpecifierSet

    assert version in SpecifierSet(wanted)
    assert re.search(r"^FROM python:(\S+)-slim$", CONTAINER, re.MULTILINE)[1] in SpecifierSet(
        wanted
    )


def test_the_examples_fit_the_action():
    text = (ROOT / "docs" / "ci.md").read_text()
    github, gitlab, hook = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    steps = github["jobs"]["deepscan"]["steps"]
    assert steps[0]["uses"].startswith("actions/checkout") and steps[0]["with"]["lfs"] is True
    (own,) = (step for step in steps if "/deepscan@" in step["uses"])
    assert own["with"].keys() <= ACTION["inputs"].keys()
    assert github["permissions"]["security-events"] == "write"
    assert any("pip install" in line for line in gitlab["deepscan"]["before_script"])
    assert hook["repos"][0]["hooks"][0]["id"] == HOOK["id"]


# The pre-commit hook


def test_the_hook_takes_the_suffixes_that_a_scan_takes():
    assert HOOK["id"] == "deepscan" and HOOK["language"] == "python"
    taken = re.compile(HOOK["files"])  # as pre-commit does: searched, with Python's flags
    suffixes = VIDEO_SUFFIXES | PICTURE_SUFFIXES
    assert {s for s in suffixes if not taken.search(f"in/a{s}")} == {".ts", ".mts"}
    assert all(taken.search(f"A{s.upper()}") for s in suffixes - {".ts", ".mts"})
    assert not any(map(taken.search, ("mp4", "a.mp4.part", "a.svg", "a.mp4/b.txt", "app.ts")))
    assert HOOK.get("pass_filenames", True) and HOOK["require_serial"]
    assert "deepscan" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def test_pre_commit_accepts_the_manifest():
    ran = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "")


def test_pre_commit_stops_a_commit_with_a_forged_clip(tmp_path):
    """Run by pre-commit, with the whole command line behind it and a fake network.

    Only the language is another: pre-commit would install deepscan into an environment of its own.
    """
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "deepscan").write_text(
        f"#!/bin/bash\nexec {shlex.quote(sys.executable)} -c "
        f"'from tests.conftest import run_with_fakes; run_with_fakes()' \"$@\"\n"
    )
    (tools / "deepscan").chmod(0o755)
    repository = tmp_path / "repository"
    repository.mkdir()
    environment = {
        **os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
        "PRE_COMMIT_HOME": str(tmp_path / "cache"), "PRE_COMMIT_COLOR": "never",
    }  # fmt: skip

    def run(*command):
        return subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip

    def check():
        run("git", "add", ".")
        return run(sys.executable, "-m", "pre_commit", "run")

    run("git", "init", "--quiet")
    hook = {**HOOK, "language": "system"}
    config = {"repos": [{"repo": "local", "hooks": [hook]}]}
    (repository / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    (repository / "app.ts").write_text("export const answer = 42;\n")
    assert "no files to check" in check().stdout
    make_face_clip(repository / "honest clip.mp4")
    make_face_clip(repository / "-odd.mkv")
    passed = check()
    assert passed.returncode == 0 and "Passed" in passed.stdout, passed.stdout
    make_face_clip(repository / "forged.mp4", forged=range(20))
    stopped = check()
    assert stopped.returncode == 1, stopped.stderr
    assert "forged.mp4: manipulated" in stopped.stdout


# The container file


def instructions():
    lines = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", CONTAINER, flags=re.MULTILINE))
    return [tuple(line.split(None, 1)) for line in lines.splitlines() if line.strip()]


def test_the_container_file_copies_only_what_is_there():
    sources = [
        source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]
    ]
    assert {"pyproject.toml", "deepscan", "engines"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source


def test_the_container_file_holds_all_that_a_build_reads():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = {part for word, rest in instructions() if word == "COPY" for part in rest.split()}
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {project["project"]["readme"], *project["project"]["license-files"]}
    assert needed | set(wheel["packages"]) | set(wheel["force-include"]) <= copied


def test_the_container_does_not_run_as_root_and_names_no_host():
    words = [word for word, _ in instructions()]
    assert words[0] == "FROM" and words.count("FROM") == 1
    user = words.index("USER")
    assert instructions()[user][1] not in ("root", "0")
    assert user < words.index("ENTRYPOINT") and words.count("USER") == 1
    assert not any("sudo" in given or "root" in given for _, given in instructions()[user:])
    assert "://" not in CONTAINER
    assert dict(instructions())["ENTRYPOINT"] == '["deepscan"]'


def test_the_container_image_holds_converted_networks():
    assert f"RUN deepscan engine build {ScanOptions().model}-openvino-fp32" in CONTAINER
