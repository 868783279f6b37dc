"""The rules that the images keep: nobody is root, nothing drifts, nothing secret, one way to install."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ("orchestrator", "student", "trainer")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions of each stage, in their order, after those of the stage that it begins from."""
    text = re.sub(r"^#.*\n", "", (ROOT / "docker/Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            source, name = rest.split(" AS ")
            current = found[name] = list(found.get(source, []))
        current.append((word, " ".join(rest.split())))
    return found


def instructions(word: str, stage: str) -> list[str]:
    return [rest for name, rest in stages()[stage] if name == word]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_numbered_user_that_is_not_root(image):
    last = stages()[image][-1]
    assert last == ("USER", "10001:10001")


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_says_whether_it_is_healthy(image):
    assert [check for check in instructions("HEALTHCHECK", image) if "docker/health.py" in check] != []


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_starts_is_no_shell(image):
    for rest in [*instructions("ENTRYPOINT", image), *instructions("CMD", image)]:
        assert isinstance(json.loads(rest), list)


def test_the_base_is_pinned_to_a_patch_release():
    outside = {rest.split()[0] for lines in stages().values() for word, rest in lines if word == "FROM"} - set(stages())
    assert [image for image in outside if not re.fullmatch(r"[a-z]+:\d+\.\d+\.\d+-[a-z-]+", image)] == []


def test_nothing_is_fetched_but_packages():
    everything = [line for lines in stages().values() for line in lines]
    assert [rest for word, rest in everything if word == "ADD"] == []
    assert [
        rest for word, rest in everything if word == "RUN" and re.search(r"\b(curl|wget|git|pip install)\b", rest)
    ] == []


def test_no_address_and_no_secret_is_baked_in():
    everything = [line for lines in stages().values() for line in lines]
    assert [rest for word, rest in everything if word in ("ENV", "ARG", "LABEL", "RUN") and "://" in rest] == []
    secret = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|AUTH)", re.IGNORECASE)
    assert [rest for word, rest in everything if word in ("ENV", "ARG") and secret.search(rest)] == []


def test_every_environment_is_installed_as_the_makefile_installs_it():
    makefile = (ROOT / "Makefile").read_text()
    recipes = {re.sub(r"\$\((\w+)\)", r"$\1", line) for line in re.findall(r"@\$\(INSTALL\) (.*)", makefile)}
    runs = [rest for name in stages() if name.endswith("-env") for rest in instructions("RUN", name)]
    steps = [run.partition("requirements/install.py ")[2].replace('"$STUDENT"', "$STUDENT") for run in runs]
    assert [step for step in steps if step and step not in recipes] == []
    assert sum(step.startswith(".venv ") for step in steps) == 2
    assert sum(step.startswith(".venv-vllm ") for step in steps) == 1


def test_an_editable_install_sees_every_package_of_the_project():
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.findall(r'"(\w+)\*"', project)
    copied = instructions("COPY", "pins")
    assert [name for name in packages if f"{name}/__init__.py {name}/" not in copied] == []


def test_only_what_is_named_gets_into_an_image():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert [line for line in lines if line.startswith("!") and not (ROOT / line[1:]).exists()] == []
    assert "**/.env" in lines
