"""The generated files are up to date and right, and every shipped example is one that `check` accepts."""

from pathlib import Path

import pytest
import yaml

from proxy.config import reference
from proxy.config.compile import compile_file, compile_text
from proxy.config.model import Config
from proxy.config.schema import sections_in

CONFIGS = reference.ROOT / "config"
EXAMPLES = sorted(CONFIGS.glob("*.yaml"))


def test_the_files_are_those_the_models_give(tmp_path):
    for path in reference.write(tmp_path):
        name = path.relative_to(tmp_path)
        hint = f"{name} is older than the models: run python -m proxy.config.reference"
        assert (reference.ROOT / name).read_text() == path.read_text(), hint


def test_the_reference_is_a_config():
    assert compile_text(reference.reference_yaml(), {}).table.services[0].name == "web"


def keys(section, path=()):
    for name, field in section.model_fields.items():
        key = (*path, field.alias or name)
        yield key
        for inner in sections_in(field.annotation):
            yield from keys(inner, key)


def written(data, path=()):
    for key, value in data.items():
        yield (*path, key)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield from written(item, (*path, key))


def test_the_reference_names_every_key():
    text = reference.reference_yaml().replace("# token_file:", "  token_file:").replace("# min:", "  min:")
    for name in ("token_file", "min"):
        text = text.replace(f"  {name}:", f"{name}:")
    assert set(keys(Config)) <= set(written(yaml.safe_load(text)))


def test_the_page_describes_every_key():
    page = reference.reference_markdown()
    for *_, key in keys(Config):
        assert f"| `{key}` |" in page


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
