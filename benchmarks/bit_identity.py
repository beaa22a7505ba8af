# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Trains digits with two commits; not a single bit may differ.

    python benchmarks/bit_identity.py
    python benchmarks/bit_identity.py --reference HEAD~1 --cases plain masked

The reference commit is checked out beside this tree, which is taken as it
stands, and both train the same networks from the same seed, on one thread of
the CPU each. Compared are the last weights, the kept channels of every group
and the slices of every parameter. Where this tree has other words than the
reference for a setting or a key, the tables below say so.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from mmlapp.engine.checkpoints.reading import read_trained
from mmlapp.engine.deployment.masked import masked_model
from mmlapp.engine.models.plans import KEY

ROOT = Path(__file__).resolve().parents[1]

# Settings of a config by variable, merged into the recipe's; those of ``hook``
# replace arguments of the hook that prunes, the last of its custom hooks.
Settings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Names:
    """What a tree calls the things that are compared.

    Args:
        recipe (str): Config of the network, the data and the schedule.
        phase (str): Argument of the hook with the epochs of pruning.
        own (tuple[str, ...]): How keys of the state dict begin that are no
            weights but the state of the pruning.
        plan (str): Key of the plan in a checkpoint.
        groups (str): Key of the groups in a plan: name to number in ``kept``.
        slices (str): The same for parameters, by dimension.
        kept (str): Key of the list of sizes and kept indices in a plan.
        renamed (Mapping[str, str]): Pieces of a parameter's name that the
            reference calls otherwise, and how.
        hook (Mapping[str, Any]): Arguments of the hook in every case.
    """

    recipe: str
    phase: str
    own: tuple[str, ...]
    plan: str
    groups: str
    slices: str
    kept: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    hook: Mapping[str, Any] = field(default_factory=dict)


REFERENCE = Names(
    recipe='configs/digits/lapp-flops40_resnet20_b64_digits.py',
    phase='prune_epochs',
    own=('lapp.',),
    plan='lapp_plan',
    groups='groups',
    slices='slices',
    kept='kept',
)
NEW = Names(
    recipe='configs/digits/lapp-flops40_resnet20_b64_digits.py',
    phase='prune_epochs',
    own=('pruner.',),
    plan='pruning_plan',
    groups='groups',
    slices='slices',
    kept='kept',
    # A branch holds its convolution, the reference had the convolution alone.
    renamed={'.bypass.conv.': '.bypass.'},
    # 0.403 as the reference computed with it: it kept its target in float32,
    # this tree keeps it in float64.
    hook={'target': {'flops': 0.40299999713897705}},
)


@dataclass(frozen=True)
class Case:
    """One way of training, in the words of both trees.

    Args:
        reference (Settings): What the reference adds to the recipe.
        new (Settings): What this tree adds to it.
        seeds (tuple[int, ...]): One run for each. Defaults to 0.
        epochs (int, optional): Length of the run, of which half prunes. None
            leaves the recipe as it is. Defaults to 6.
    """

    reference: Settings = field(default_factory=dict)
    new: Settings = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = 6


CASES = {
    'plain': Case(seeds=(0, 1), epochs=None),
    'masked': Case(
        reference=dict(hook=dict(narrow=False)),
        new=dict(hook=dict(narrow=False)),
    ),
    'depthwise': Case(
        reference=dict(
            model=dict(bypass=dict(type='depthwise', placement='narrow'))
        ),
        new=dict(model=dict(bypass='depthwise')),
    ),
    'fill': Case(
        reference=dict(
            model=dict(bypass=dict(type='depthwise', placement='fill'))
        ),
        new=dict(model=dict(bypass='depthwise', unit='filters')),
    ),
    'pointwise': Case(
        reference=dict(
            model=dict(bypass=dict(type='pointwise', placement='narrow'))
        ),
        new=dict(model=dict(bypass='pointwise')),
    ),
    'taylor': Case(
        reference=dict(model=dict(score='taylor')),
        new=dict(model=dict(score='taylor')),
    ),
    'gradient': Case(
        reference=dict(model=dict(controller=dict(order=1))),
        new=dict(
            model=dict(
                method=dict(
                    type='lapp',
                    update=dict(type='balance', sensitivity='gradient'),
                )
            )
        ),
    ),
    'longtail': Case(
        reference=dict(model=dict(surrogate='longtail', normalisation='mean')),
        new=dict(
            model=dict(
                method=dict(type='lapp', surrogate='longtail'),
                normalisation='mean',
            )
        ),
    ),
    'divisor': Case(
        reference=dict(model=dict(divisor=8)),
        new=dict(model=dict(divisor=8)),
    ),
    'amp': Case(
        reference=dict(
            optim_wrapper=dict(
                type='mmlapp.AmpLAPPOptimWrapper', dtype='bfloat16'
            )
        ),
        new=dict(
            optim_wrapper=dict(
                type='mmlapp.AmpPruningOptimWrapper', dtype='bfloat16'
            )
        ),
    ),
    'accumulate': Case(
        reference=dict(optim_wrapper=dict(accumulative_counts=2)),
        new=dict(optim_wrapper=dict(accumulative_counts=2)),
    ),
}
TREES = 'reference', 'new'


@dataclass(frozen=True)
class Verdict:
    """What a comparison found.

    Args:
        tensors (int): How many weights were compared.
        first (str, optional): The first thing that differs. None if every
            bit is the same.
    """

    tensors: int
    first: str | None


def compare(
    reference: Mapping[str, Any],
    new: Mapping[str, Any],
    names: tuple[Names, Names] = (REFERENCE, NEW),
) -> Verdict:
    """Compares two checkpoints: weights, kept channels, slices.

    Args:
        reference (Mapping): Checkpoint of the reference.
        new (Mapping): Checkpoint of this tree.
        names (tuple[Names, Names]): Their words. Defaults to those of the
            tables above.
    """
    pair = tuple(zip((reference, new), names, strict=True))
    for (checkpoint, words), tree in zip(pair, TREES, strict=True):
        if words.plan not in checkpoint:
            return Verdict(0, f'{tree} has no {words.plan}')
    steps: list[tuple[str, Callable[[Any, Names], dict[str, Any]]]] = [
        ('', weights),
        ('group ', groups),
        ('slices of ', slices),
    ]
    first, counts = None, []
    for kind, read in steps:
        a, b = (read(checkpoint, words) for checkpoint, words in pair)
        counts.append(len(a.keys() & b.keys()))
        first = first or difference(a, b, kind)
    if 0 in counts:
        first = first or 'nothing to compare'
    return Verdict(counts[0], first)


def weights(checkpoint: Mapping[str, Any], names: Names) -> dict[str, Tensor]:
    """The state dict without the pruning's own, in the reference's words."""
    return {
        in_reference(key, names): value
        for key, value in checkpoint['state_dict'].items()
        if not key.startswith(names.own)
    }


def groups(checkpoint: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Size and kept channels of every group."""
    plan = checkpoint[names.plan]
    kept = plan[names.kept]
    return {key: kept[number] for key, number in plan[names.groups].items()}


def slices(checkpoint: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Sizes and kept indices of every parameter that is narrowed."""
    plan = checkpoint[names.plan]
    kept = plan[names.kept]
    return {
        in_reference(key, names): {d: kept[n] for d, n in dims.items()}
        for key, dims in plan[names.slices].items()
    }


def in_reference(key: str, names: Names) -> str:
    """What the reference calls a parameter."""
    for piece, other in names.renamed.items():
        key = key.replace(piece, other)
    return key


def difference(a: Mapping[str, Any], b: Mapping[str, Any], kind: str) -> Any:
    """The first name with another value, or None."""
    for key in [*a, *(key for key in b if key not in a)]:
        for one, tree in ((b, 'reference'), (a, 'new')):
            if key not in one:
                return f'{kind}{key}: in the {tree} alone'
        if not same(a[key], b[key]):
            return f'{kind}{key}'
    return None


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, tensors bit by bit."""
    if not isinstance(a, Tensor):
        return bool(a == b)
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(bits(a), bits(b))
    )


def bits(value: Tensor) -> Tensor:
    """The bytes of a tensor: 0.0 is not -0.0, and a NaN is itself."""
    return value.detach().reshape(-1).view(torch.uint8)


def config_text(
    recipe: Path,
    names: Names,
    settings: Settings,
    seed: int,
    epochs: int | None,
) -> str:
    """A config that inherits a tree's recipe.

    Args:
        recipe (Path): The config to inherit.
        names (Names): The words of the tree.
        settings (Settings): What is added.
        seed (int): Of all random numbers.
        epochs (int, optional): Length of the run; None: the recipe's.
    """
    parts: dict[str, Mapping[str, Any]] = {
        **settings,
        'randomness': {'seed': seed},
    }
    hook = {**names.hook, **parts.pop('hook', {})}
    if epochs is not None:
        parts['train_cfg'] = {'max_epochs': epochs}
        hook[names.phase] = max(1, epochs // 2)
    lines = [f'_base_ = {str(recipe)!r}']
    lines += [f'{key} = {dict(value)!r}' for key, value in parts.items()]
    lines.append(
        '*others, hook = _base_.custom_hooks\n'
        f'custom_hooks = [*others, {{**hook, **{hook!r}}}]\n'
        # What remains is part of the config.
        'del others, hook'
    )
    return '\n'.join(lines) + '\n'


def environment(tree: Path) -> dict[str, str]:
    """One thread of the CPU, with the package of a tree."""
    return {
        **os.environ,
        'PYTHONPATH': str(tree),
        'OMP_NUM_THREADS': '1',
        'CUDA_VISIBLE_DEVICES': '',
    }


def start(tree: Path, config: Path) -> subprocess.Popen[bytes]:
    """Trains in the background, with the tool of the tree."""
    folder = config.with_suffix('')
    command = [sys.executable, tree / 'tools' / 'train.py', config]
    with config.with_suffix('.log').open('w') as log:
        return subprocess.Popen(
            [*map(str, command), '--work-dir', str(folder)],
            cwd=tree,
            env=environment(tree),
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def train(trees: Sequence[Path], configs: Sequence[Path]) -> str | None:
    """Trains both side by side; says which of them failed.

    Args:
        trees (Sequence[Path]): Reference and new.
        configs (Sequence[Path]): Their configs.
    """
    runs = list(map(start, trees, configs))
    try:
        codes = [run.wait() for run in runs]
    finally:
        for run in runs:
            run.kill()
            run.wait()
    for code, config, tree in zip(codes, configs, TREES, strict=True):
        if code:
            log = config.with_suffix('.log').read_text().splitlines()
            print('\n'.join(log[-15:]), file=sys.stderr)
            return f'{tree} ended with code {code}'
    return None


def run_case(
    case: Case, seed: int, trees: Sequence[Path], folder: Path
) -> Verdict:
    """Trains one case with both trees and compares their last checkpoints.

    Args:
        case (Case): The case.
        seed (int): Its seed.
        trees (Sequence[Path]): Reference and new.
        folder (Path): Of configs, logs and checkpoints.
    """
    configs = []
    columns = (REFERENCE, case.reference), (NEW, case.new)
    for name, tree, (names, settings) in zip(
        TREES, trees, columns, strict=True
    ):
        recipe = tree / names.recipe
        configs.append(folder / f'{name}.py')
        configs[-1].write_text(
            config_text(recipe, names, settings, seed, case.epochs)
        )
    failed = train(trees, configs)
    if failed:
        return Verdict(0, failed)
    return compare(*(last_checkpoint(c.with_suffix('')) for c in configs))


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """Loads what a run wrote last, with the plan where the reference has it.

    This tree has the plan among the weights, or the masks alone.
    """
    path = (folder / 'last_checkpoint').read_text().strip()
    data: dict[str, Any] = torch.load(path, weights_only=False)
    if REFERENCE.plan not in data:
        model = masked_model(
            Config.fromstring(data['meta']['cfg'], '.py'), read_trained(path)
        )
        data[NEW.plan] = model.pruner.plan().to_dict()
        data['state_dict'].pop(KEY, None)
    return data


def git(*arguments: object) -> None:
    """Runs git in the repository of this script."""
    command = ['git', '-C', str(ROOT), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f'error: {result.stderr.strip()}')


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A commit in a folder of its own, which is removed in every case."""
    with tempfile.TemporaryDirectory(prefix='bit_identity_') as folder:
        tree = Path(folder).resolve() / 'reference'
        git('worktree', 'add', '--detach', tree, commit)
        try:
            check_import(tree)
            yield tree
        finally:
            git('worktree', 'remove', '--force', tree)


def check_import(tree: Path) -> None:
    """A package installed elsewhere would be compared with itself."""
    code = 'import mmlapp; print(mmlapp.__file__)'
    found = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tree.parent,
        env=environment(tree),
        capture_output=True,
        text=True,
        check=True,
    )
    if not Path(found.stdout.strip()).resolve().is_relative_to(tree):
        raise SystemExit(f'error: {tree} imports {found.stdout.strip()}')


def run_all(cases: Mapping[str, Case], commit: str) -> bool:
    """Prints a line per run; returns whether all are identical.

    Args:
        cases (Mapping[str, Case]): The cases by name.
        commit (str): The reference.
    """
    line = '{:<12} {:>4}  {:<9} {:>7}  {}'.format
    identical = True
    with checkout(commit) as tree, tempfile.TemporaryDirectory() as folder:
        check_import(ROOT)
        print(line('case', 'seed', 'identical', 'tensors', 'first difference'))
        for name, case in cases.items():
            for seed in case.seeds:
                place = Path(folder) / f'{name}-{seed}'
                place.mkdir()
                found = run_case(case, seed, (tree, ROOT), place)
                equal = 'no' if found.first else 'yes'
                cells = name, seed, equal, found.tensors, found.first or ''
                print(line(*cells).rstrip(), flush=True)
                identical &= found.first is None
    return identical


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--reference',
        default='dca8392',
        metavar='COMMIT',
        help='what this tree is compared with (default: dca8392)',
    )
    parser.add_argument(
        '--cases', nargs='+', choices=list(CASES), default=list(CASES)
    )
    parser.add_argument(
        '--epochs',
        type=int,
        metavar='N',
        help='length of every run, of which half prunes (default: that of '
        'the recipe for plain, 6 for the others)',
    )
    args = parser.parse_args()
    if args.epochs is not None and args.epochs < 1:
        parser.error(f'--epochs={args.epochs}: expected at least 1')
    return args


def main() -> None:
    """Exits with an error if anything differs."""
    args = parse_args()
    # The checkout is removed when this process is asked to end, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cases = {name: CASES[name] for name in args.cases}
    if args.epochs is not None:
        cases = {n: replace(c, epochs=args.epochs) for n, c in cases.items()}
    sys.exit(not run_all(cases, args.reference))


if __name__ == '__main__':
    main()
