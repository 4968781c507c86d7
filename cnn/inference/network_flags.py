"""The flags that name a trained network, for every verb that uses one."""

from typing import Any

from cnn import flags
from cnn.convert.pretrained import PRETRAINED
from cnn.convert.pretrained import folder as pretrained_folder
from cnn.errors import UserError
from cnn.inference.predictor import Predictor, load


def add_network(parser: flags.Parser) -> None:
    """Adds them; `chosen` loads the network."""
    parser.add_argument("--workdir", default="", help="of the run, or one checkpoint folder")
    parser.add_argument("--model", default="", help="with --pretrained, in place of --workdir")
    parser.add_argument("--pretrained", action="store_true", help=f"the weights of {', '.join(PRETRAINED)}")
    parser.add_argument("--checkpoint", default="", help="best, last, or a step; default: the run's eval.use")


def chosen(args: Any) -> Predictor:
    """The network that the flags of `add_network` name.

    Raises:
      UserError: they name none or two; and as `load`.
    """
    if bool(args.workdir) == args.pretrained or bool(args.model) != args.pretrained:
        raise UserError("give --workdir=RUN, or --model=NAME with --pretrained")
    path = str(pretrained_folder(args.model)) if args.pretrained else args.workdir
    return load(path, args.checkpoint)
