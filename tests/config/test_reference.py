"""The generated files are up to date and right, and every shipped example is one that `check` accepts."""

import re
from pathlib import Path

import pytest
import yaml

from proxy.config import reference
from proxy.config.compile import compile_file, compile_text
from proxy.config.model import Config
from proxy.config.plans import compile_plan_file
from proxy.config.schema import sections_in
from proxy.config.stages import PlanConfig

CONFIGS = reference.ROOT / "config"
EXAMPLES = sorted(CONFIGS.glob("*.yaml"))


def test_the_files_are_those_the_models_give(tmp_path):
    for path in reference.write(tmp_path):
        name = path.relative_to(tmp_path)
        hint = f"{name} is older than the models: run python -m proxy.config.reference"
        assert (reference.ROOT / name).read_text() == path.read_text(), hint


def test_the_reference_is_a_config():
    assert compile_text(reference.reference_yaml(), {}, base=CONFIGS).table.services[0].name == "web"
    assert compile_text(reference.reference_yaml(), {}, base=CONFIGS).plans[0].rollouts


def keys(section, path=()):
    """Yield the paths of all keys ; a plan in a service is documented as a plan."""
    for name, field in section.model_fields.items():
        key = (*path, field.alias or name)
        yield key
        for inner in sections_in(field.annotation):
            if inner is not PlanConfig:
                yield from keys(inner, key)


def written(data, path=()):
    for key, value in data.items():
        named = key in {"cache_hit_rate", "memory_bytes"}
        if not named:
            yield (*path, key)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield from written(item, path if named else (*path, key))


def with_alternatives(text):
    """Return a reference in which the keys that exclude another one are no comments."""
    return re.sub(r"^( {0,12})# ([a-z_]+: )", r"\1\2", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "text,section",
    [(reference.reference_yaml(), Config), (reference.plan_yaml(), PlanConfig)],
    ids=["config", "plan"],
)
def test_the_reference_names_every_key(text, section):
    assert set(keys(section)) <= set(written(yaml.safe_load(with_alternatives(text))))


def test_the_page_describes_every_key():
    page = reference.reference_markdown()
    for *_, key in [*keys(Config), *keys(PlanConfig)]:
        assert f"| `{key}` |" in page


def test_the_plan_reference_is_a_plan():
    (plan,) = compile_plan_file(CONFIGS / "rollouts/reference.yaml", {}).plans
    assert plan.name == "reference"


def test_there_are_examples():
    names = {path.name for path in EXAMPLES}
    assert {"two-versions.yaml", "many-services.yaml", "container.yaml", "reference.yaml"} <= names


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_accepted(path):
    compiled = compile_file(path, {})
    assert compiled.table.services


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_begins_with_what_it_is_for(path):
    assert path.read_text().startswith("# ")


def test_the_container_example_takes_its_environment():
    environ = {
        "PORT": "80",
        "WORKERS": "2",
        "STABLE": "http://blue:1",
        "WEIGHT": "5%",
        "TIDEGATE_ADMIN_LISTEN": "0.0.0.0:9900",
        "TIDEGATE_ADMIN_TOKEN": "secret",
    }
    compiled = compile_file(CONFIGS / "container.yaml", environ)
    assert compiled.settings.listen == ("0.0.0.0:80",)
    assert compiled.settings.workers == 2
    assert compiled.settings.state == Path("/var/lib/tidegate/tidegate.db")
    assert compiled.table.services[0].stable.endpoints[0].host == "blue"
    assert compiled.plans[0].initial_weight == 500
    assert [token.name for token in compiled.settings.admin.tokens] == ["deploy"]
