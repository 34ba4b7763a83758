"""Reading the config.yml that ns-train wrote without running what it may hold.

nerfstudio writes its configurations as YAML with Python tags and reads them with `yaml.Loader`, which imports and calls
whatever a file names: `!!python/object/apply:os.system` runs. Here a file can only say what a configuration says:

- `object:` builds dataclasses of nerfstudio and fit3d, from their fields alone and without calling them. The class that
  such a dataclass sets up (`_target`) must be the one that it names itself, or another of nerfstudio's models;
- `name:` gives classes of nerfstudio, fit3d and torch.optim, and the one function that configurations refer to;
- `object/apply:` calls paths, enumerations, ordered dicts, and a generic class's `[...]`, nothing else;
- everything else that is tagged as Python is refused by name.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Generic, NoReturn, get_origin

import yaml
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model

from fit3d_ns.common.errors import InputError, one_line
from fit3d_ns.method.release_0_1 import MOVED

PACKAGES = (
    *(f"nerfstudio.{part}" for part in ("cameras", "configs", "data", "engine", "field_components", "fields")),
    *(f"nerfstudio.{part}" for part in ("model_components", "models", "pipelines", "utils", "viewer")),
    *("fit3d_ns.features", "fit3d_ns.method", "torch.optim"),
)
"""Where the classes that a configuration may name are defined. Modules outside are not even imported."""

REFUSED = {
    "nerfstudio.data.dataparsers.minimal_dataparser": "its captures are pickle files, which can run programs",
    "nerfstudio.configs.external_methods": "it installs packages",
}
"""Modules within `PACKAGES` that are not to be used all the same, and why."""

FUNCTIONS = frozenset({"nerfstudio.data.utils.nerfstudio_collate.nerfstudio_collate"})
"""The functions that configurations of nerfstudio's own methods refer to."""

_PATHS = {
    **dict.fromkeys(("pathlib.Path", "pathlib.PosixPath", "pathlib.PurePath", "pathlib.PurePosixPath"), PurePosixPath),
    **dict.fromkeys(("pathlib.WindowsPath", "pathlib.PureWindowsPath"), PureWindowsPath),
}
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def load_config(path: Path) -> TrainerConfig:
    """The configuration in a config.yml, as nerfstudio would read it.

    Raises:
        InputError: not there, not a configuration, of another nerfstudio, or with anything in it that could run.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: give --load-config the config.yml that ns-train wrote.")
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        loader.path = path
        config = loader.get_single_data()
    except (OSError, yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = one_line(error)
        raise InputError(f"{path} is not a configuration that this nerfstudio can read ({reason}).") from error
    if not isinstance(config, TrainerConfig):
        raise InputError(f"{path} is not the config.yml of a fit3d method or another: give the one of ns-train.")
    return config


class _Loader(yaml.SafeLoader):
    """Plain YAML; what Python tags may build is added below."""

    path: Path

    def refuse(self, name: str, reason: str) -> NoReturn:
        raise InputError(
            f"{self.path} names {name!r}, which {reason}: nothing was run; give a config.yml that ns-train wrote for a "
            "method of nerfstudio or fit3d (see docs/security.md)."
        )

    def find_class(self, name: str) -> Any:
        """The class, or function of `FUNCTIONS`, of that name."""
        module_name, _, attribute = name.rpartition(".")
        module_name = MOVED.get(module_name, module_name)
        if not _NAME.fullmatch(name) or not _is_in(module_name, PACKAGES):
            self.refuse(name, "is no class of nerfstudio, fit3d or torch.optim")
        for refused, reason in REFUSED.items():
            if _is_in(module_name, (refused,)):
                self.refuse(name, f"fit3d does not use ({reason})")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError):
            self.refuse(name, "is not in the nerfstudio that is installed here")
        if f"{module_name}.{attribute}" in FUNCTIONS:
            return found
        # A module's names include what it imported: subprocess.Popen as nerfstudio.x.Popen, say.
        if not isinstance(found, type) or not _is_in(found.__module__, PACKAGES):
            self.refuse(name, "is no class of nerfstudio, fit3d or torch.optim")
        return found


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _tuple(loader: _Loader, node: yaml.Node) -> tuple[Any, ...]:
    return tuple(_arguments(loader, node))


def _arguments(loader: _Loader, node: yaml.Node) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a list", node.start_mark)
    return loader.construct_sequence(node, deep=True)


def _name(loader: _Loader, name: str, node: yaml.Node) -> Any:
    return loader.find_class(name)


def _object(loader: _Loader, name: str, node: yaml.Node) -> Any:
    made = loader.find_class(name)
    if not isinstance(made, type) or not dataclasses.is_dataclass(made):
        loader.refuse(name, "is no configuration class")
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a mapping", node.start_mark)
    state = loader.construct_mapping(node, deep=True)
    fields = {field.name: field for field in dataclasses.fields(made)}
    for key in state:
        # Fields of other versions of nerfstudio do no harm; methods must stay what they are.
        if not isinstance(key, str) or (key not in fields and (hasattr(made, key) or key.startswith("__"))):
            loader.refuse(f"{name}.{key}", "is no field of that class")
    if "_target" in state and not _is_target(state["_target"], _default(fields["_target"])):
        loader.refuse(f"{name}._target", f"is {state['_target']!r} and not what that class sets up")
    # As yaml does for every object: `__init__` and `__post_init__` are not called.
    instance = object.__new__(made)
    # What a field's class came to have since the run was trained.
    for key, field in fields.items():
        if key not in state and field.default_factory is not dataclasses.MISSING:
            state[key] = field.default_factory()
    instance.__dict__.update(state)
    return instance


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _is_target(given: Any, own: Any) -> bool:
    """Whether a configuration may set up `given`, where its class names `own` (apart from what is in its `[...]`)."""
    if (get_origin(given) or given) is (get_origin(own) or own):
        return True
    # mipnerf is configured as vanilla-nerf is.
    return all(isinstance(one, type) and issubclass(one, Model) for one in (given, own))


def _apply(loader: _Loader, name: str, node: yaml.Node) -> Any:
    if name == "_operator.getitem":
        generic, argument = _arguments(loader, node)
        if Generic not in getattr(generic, "__mro__", ()) or not isinstance(argument, type):
            loader.refuse(name, "is not of a generic class here")
        return generic[argument]
    if name == "builtins.getattr":  # how Python 3.11.0 to 3.11.3 write the member of an enumeration
        kind, member = _arguments(loader, node)
        if not (isinstance(kind, enum.EnumMeta) and isinstance(member, str) and member in kind.__members__):
            loader.refuse(name, "a configuration has no need to call")
        return kind[member]
    public = name.replace("pathlib._local.", "pathlib.")  # Python 3.13's
    if public in _PATHS:
        return Path(_PATHS[public](*_arguments(loader, node)).as_posix())
    if name == "collections.OrderedDict":
        return OrderedDict(*_arguments(loader, node))
    if not name.startswith(("nerfstudio.", "fit3d_ns.")):
        loader.refuse(name, "a configuration has no need to call")
    kind = loader.find_class(name)
    if not isinstance(kind, type) or not issubclass(kind, enum.Enum):
        loader.refuse(name, "a configuration has no need to call")
    return kind(*_arguments(loader, node))


def _refused(what: str) -> Callable[[_Loader, str, yaml.Node], Any]:
    def construct(loader: _Loader, name: str, node: yaml.Node) -> Any:
        loader.refuse(name, f"{what}, of which a configuration has no need")

    return construct


_PYTHON = "tag:yaml.org,2002:python/"
_SCALARS: dict[str, Callable[[_Loader, Any], Any]] = {
    "none": _Loader.construct_yaml_null,
    "bool": _Loader.construct_yaml_bool,
    "str": _Loader.construct_yaml_str,
    "unicode": _Loader.construct_yaml_str,
    "int": _Loader.construct_yaml_int,
    "long": _Loader.construct_yaml_int,
    "float": _Loader.construct_yaml_float,
    "list": _Loader.construct_yaml_seq,
    "dict": _Loader.construct_yaml_map,
    "tuple": _tuple,
}
for _tag, _construct in _SCALARS.items():
    _Loader.add_constructor(_PYTHON + _tag, _construct)
_Loader.add_multi_constructor(_PYTHON + "name:", _name)
_Loader.add_multi_constructor(_PYTHON + "object:", _object)
_Loader.add_multi_constructor(_PYTHON + "object/apply:", _apply)
_Loader.add_multi_constructor(_PYTHON + "object/new:", _refused("is built by calling it"))
_Loader.add_multi_constructor(_PYTHON + "module:", _refused("is a module"))
_Loader.add_multi_constructor(_PYTHON, _refused("is a Python value"))
