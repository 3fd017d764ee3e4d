"""IntTower: gated fields, heads of every layer compared with the item's, a contrast in the batch.

    interactrank prepare --config=configs/inttower.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/inttower.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".

The authors' public PyTorch code has, for MovieLens-1M, towers and heads of another size:
`--config.model.tower.hidden=(300,300,300) --config.model.fe.heads=32 --config.model.fe.width=64`,
a step then takes ten times as long on CPU. These settings, and those of the argument
`movielens_1m_published`, are of the one version of that code that we read, and differ between
versions of it; that they are the ones behind the paper's figures is not known.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = common.base_config(argument)
    config.model = common.model_config("inttower", pooling="mean", masknet_blocks=0)
    # 4 heads of 16 take as much room in an index as one vector of 64.
    config.model.fe = ConfigDict({"heads": 4, "width": 16})
    common.fit_to_data(config, argument)
    # CIR is a part of the model: it stays where the others have no softmax.
    config.train.loss.update({"softmax_weight": 0.1, "log_q": "none"})
    if argument == "movielens_1m_published":
        # As the authors' code: a batch of 2048, its mean CIR added to the sum of its cross entropy.
        config.train.loss.softmax_weight = 1 / 2048
    return config
