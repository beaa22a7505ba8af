# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import gc
import re
from argparse import ArgumentParser

import pytest
import torch
from mmengine.config import Config

from mmlapp.core import PruningError
from mmlapp.engine.config_files import (
    add_config_arguments,
    check_checkpoint,
    find_config,
    read_config,
    read_model_config,
)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'recipe.py'
    path.write_text('model = dict(depth=8, layers=[dict(a=1)])')
    return path


def test_options_replace_values(config):
    cfg = read_config(config, {'model.depth': 20, 'model.new': 1})
    assert cfg.model.depth == 20
    assert cfg.model.new == 1
    assert read_config(str(config)).model.depth == 8
    assert cfg.filename == str(config)


@pytest.mark.parametrize(
    'options', [{'model.layers.3.a': 2}, {'model.layers.x': 2}]
)
def test_options_that_do_not_fit(config, options):
    with pytest.raises(PruningError) as info:
        read_config(config, options)
    assert str(info.value).startswith(f'--cfg-options {options}')


@pytest.mark.parametrize(
    ('text', 'what'),
    [
        ('', 'has no model'),
        ('model = None', 'has no model'),
        ("model = 'ResNet'", "has model='ResNet'"),
        ('model = [1, 2]', r'has model=\[1, 2\]'),
    ],
)
def test_a_config_of_no_model(config, text, what):
    assert read_model_config(config).model.depth == 8
    config.write_text(text)
    read_config(config)
    with pytest.raises(PruningError, match=f"recipe.py' {what}: give the con"):
        read_model_config(config)


@pytest.mark.parametrize(
    ('text', 'what'),
    [
        ('default_scope = 3', 'default_scope=3: expected the name of a pack'),
        ("data_preprocessor = 'x'", "data_preprocessor='x': expected a dict"),
        (
            'model = dict(data_preprocessor=[1])',
            r'model\.data_preprocessor=\[1\]: expected a dictionary',
        ),
    ],
)
def test_a_config_of_a_model_with_other_types(config, text, what):
    config.write_text(f'model = dict(data_preprocessor=dict())\n{text}')
    with pytest.raises(PruningError, match=f"recipe.py': {what}"):
        read_model_config(config)
    # Other configs may call something else so.
    read_config(config)


@pytest.mark.parametrize('suffix', ['', '.py'])
@pytest.mark.parametrize(
    'name',
    [
        'mmpretrain::_base_/models/resnet18',
        'mmpretrain::resnet/resnet18_8xb32_in1k',
    ],
)
def test_configs_of_packages_are_those_of_base(tmp_path, name, suffix):
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = '{name}.py'")
    found, expected = read_config(name + suffix), Config.fromfile(child)
    assert found.model.backbone.depth == expected.model.backbone.depth == 18
    assert set(found.keys()) == set(expected.keys())
    assert found.filename.endswith('.py')


def test_a_dot_within_a_name_is_no_suffix(tmp_path, monkeypatch):
    folder = tmp_path / 'dotted' / '.mim' / 'configs'
    folder.mkdir(parents=True)
    (tmp_path / 'dotted' / '__init__.py').touch()
    (folder / 'net_v1.5.py').touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ('dotted::net_v1.5', 'dotted::net_v1.5.py'):
        assert find_config(name) == folder / 'net_v1.5.py'


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('nowhere.py', 'nowhere.py does not exist'),
        ('', 'is a folder'),
        ('notes.txt', 'expected a file of type .py'),
        ('weights.pth', 'is a checkpoint: the config comes first'),
    ],
)
def test_what_is_no_config(tmp_path, name, text):
    (tmp_path / 'notes.txt').write_text('lr = 1')
    torch.save({}, tmp_path / 'weights.pth')
    path = tmp_path / name
    with pytest.raises(PruningError) as info:
        read_config(path)
    assert str(info.value).startswith(f'config={str(path)!r}')
    assert text in str(info.value)


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        (
            'nopackage::a/b.py',
            "no package 'nopackage' is installed. Install it",
        ),
        ('not a name::a/b.py', "no package 'not a name' is installed"),
        ('mmpretrain::resnet/none.py', 'none.py.py does not exist'),
    ],
)
def test_configs_that_no_package_has(name, text):
    with pytest.raises(PruningError, match=re.escape(text)):
        read_config(name)


@pytest.mark.parametrize(
    ('source', 'text'),
    [
        ('lr = (', 'SyntaxError: '),
        ('lr = rate', "NameError: name 'rate'"),
        ("_base_ = 'gone.py'", 'FileNotFoundError: '),
        ('1 / 0', 'ZeroDivisionError: '),
        ("custom_imports = dict(imports=['no_such_module'])", 'ImportError: '),
    ],
)
# MMEngine leaves a temporary file open where reading fails.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_configs_that_cannot_be_read(tmp_path, source, text):
    path = tmp_path / 'broken.py'
    path.write_text(source)
    with pytest.raises(PruningError) as info:
        read_config(path)
    message = str(info.value)
    del info
    gc.collect()
    assert f'config={str(path)!r} cannot be read: {text}' in message


def test_options_have_a_form(config, capsys):
    parser = ArgumentParser()
    add_config_arguments(parser)
    argv = [str(config), '--cfg-options', 'a.b=1']
    assert parser.parse_args(argv).cfg_options == {'a.b': 1}
    with pytest.raises(SystemExit) as info:
        parser.parse_args([*argv, 'c'])
    assert info.value.code == 2
    assert '--cfg-options c: expected KEY=VALUE' in capsys.readouterr().err


def test_checkpoints(tmp_path):
    new, old, text = (tmp_path / name for name in ('new', 'old', 'text'))
    torch.save({}, new)
    torch.save({}, old, _use_new_zipfile_serialization=False)
    text.write_text('model = 1')
    for path in (new, str(old), 'https://there/a.pth'):
        check_checkpoint('checkpoint', path)
    for path, reason in (
        (text, 'is no checkpoint: it is a text'),
        (tmp_path, 'is a folder: give one of its checkpoints'),
        (tmp_path / 'gone', 'there is no such file'),
    ):
        with pytest.raises(PruningError, match=reason) as info:
            check_checkpoint('--resume', path)
        assert str(info.value).startswith(f'--resume={str(path)!r}')
