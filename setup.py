# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Packaging of mmlapp; tool settings are in ``pyproject.toml``."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read(name: str) -> str:
    """Return the text of a file of the repository."""
    return (ROOT / name).read_text(encoding='utf-8')


def read_version() -> str:
    """Return ``__version__`` without importing the package."""
    scope: dict[str, str] = {}
    exec(read('mmlapp/version.py'), scope)
    return scope['__version__']


def read_requirements(name: str) -> list[str]:
    """Return the requirements listed in ``requirements/<name>.txt``."""
    lines = read(f'requirements/{name}.txt').splitlines()
    stripped = (line.partition('#')[0].strip() for line in lines)
    return [line for line in stripped if line]


# The OpenMMLab packages exist as two sets of distributions (`mmengine` and
# `onedl-mmengine`, ...) with the same modules. Requiring either would install
# it over the other, so they are an extra and checked in `mmlapp/compat.py`.
extras = {
    'mim': read_requirements('mminstall'),
    'optional': read_requirements('optional'),
    'export': read_requirements('export'),
    'tests': read_requirements('tests'),
}
extras['all'] = extras['optional'] + extras['export'] + extras['tests']

setup(
    name='mmlapp',
    version=read_version(),
    description='Layer-adaptive progressive pruning while training, '
    'for OpenMMLab',
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    author='mmlapp authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='pruning, model compression, computer vision, OpenMMLab',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    python_requires='>=3.10,<3.13',
    packages=find_packages(include=['mmlapp', 'mmlapp.*']),
    include_package_data=True,
    install_requires=read_requirements('runtime'),
    extras_require=extras,
    zip_safe=False,
)
