"""Name the packages of the wheel. The shipped search spaces lie inside `sweeper` there, and nowhere else."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["sweeper*", "jobs*"]), "sweeper.search_spaces"])
