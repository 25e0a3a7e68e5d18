"""Packaging of coma-embedding. The version below is the only place that states it."""

from pathlib import Path

from setuptools import find_packages, setup


VERSION = "0.1.0.dev0"

# `make lock` writes what these bounds allow to constraints/: the newest versions, and the lower bounds, which
# `make test-min` runs the tests with. torch alone is the same at both ends.
INSTALL_REQUIRES = [
    "torch>=2.6,<3",
    "transformers>=5.18.0,<6",
    "pillow>=12.0.0,<15",
    "jinja2>=3.1.6,<4",  # chat templates
]

EXTRAS_REQUIRE = {
    "train": [
        "peft>=0.20.0,<1",
        "accelerate>=1.13.0,<2",
        "datasets>=5.0.0,<6",
        "evaluate>=0.4.6,<1",
        "tensorboard>=2.20.0,<3",
        "matplotlib>=3.10.0,<4",
        "filelock>=4.2.0,<5",
        "tqdm>=4.68.0,<5",
    ],
    # `coma generate-qa`, and `coma verify` of a server
    "qa": [
        "openai>=3.57.0,<4",
        "httpx2>=2.16.2,<3",
    ],
    "eval": [
        "sentence-transformers>=6.2.0,<7",
        "mteb>=2.26.0,<3",
    ],
    # The processors of backbones other than Qwen-VL. torchvision comes in pairs with torch, and is locked as torch is.
    "vision": [
        "torchvision>=0.21,<1",
        "num2words>=0.5.14,<1",  # SmolVLM spells the length of a video
    ],
    # Files of videos.
    "video": [
        "av>=16.0.0,<19",
    ],
    # Pages of PDFs as images.
    "pdf": [
        "pypdfium2>=5.0.0,<6",
    ],
    # `coma embed --engine ray`, `coma serve`.
    "scale": [
        "ray[data,serve]>=2.60.0,<3",
    ],
    # `coma index`.
    "index": [
        "lancedb>=0.40.0,<1",
    ],
    # `coma app`.
    "app": [
        "gradio>=6.31.0,<7",
    ],
    # The tests of the page, in a Chromium of the system.
    "browser": [
        "playwright>=1.60,<2",
    ],
    "dev": [
        "aiohttp>=3.14.0,<4",  # the server of benchmarks/qa_generation.py
        "pytest>=9.0.0,<10",
        "pytest-xdist>=3.8.0,<4",
        "pytrec-eval-terrier>=0.5.10,<1",
        "pypdfium2>=5.0.0,<6",
        "pre-commit>=4.5.0,<5",
        "pre-commit-hooks>=6.0.0,<7",
        "ruff==0.17.6",
        "scikit-learn>=1.9.1,<2",  # benchmarks/world_study/probe.py
        "setuptools>=77.0.3,<100",  # builds the wheel that tests/test_packaging.py opens
    ],
}

setup(
    name="coma-embedding",
    version=VERSION,
    description="Turn a vision-language model into a multimodal embedding model: compression, then matching (CoMa).",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="multimodal embedding retrieval vision-language compression contrastive transformers",
    packages=find_packages(include=["modeling_coma", "trainers", "trainers.*", "hub_scripts", "hub_scripts.*"]),
    package_data={
        "modeling_coma": ["py.typed"],
        "trainers": ["py.typed"],
        "trainers.data.emoji": ["*.parquet", "*.md"],
        "trainers.data.mmeb": ["*.json"],
        "hub_scripts.hub": ["*.md"],
        "hub_scripts.app_page": ["*.css", "*.js"],
        "hub_scripts": ["py.typed", "recipes/*.yaml", "configs/*.yaml", "configs/*.json"],
    },
    include_package_data=False,
    python_requires=">=3.11",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["coma = hub_scripts.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
