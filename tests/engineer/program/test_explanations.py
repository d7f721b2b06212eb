"""What a program's author reads of an exception: its line, and the cause or remedy of common ones."""

import pytest
import torch

from services.engineer.construction import ProgramError
from services.engineer.program import explain, load_mixer, traceback_tail
from tests.engineer.program.test_loading import HEAD, SIZES, kind

pytestmark = pytest.mark.usefixtures("prepared_child")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "assert hidden_states.shape[1] % 16 == 0",
            "AssertionError, raised in line 9 (Mixer.forward): assert hidden_states.shape[1]",
        ),
        ("nn.Embedding(9, 4)(hidden_states)", "name the mixer's class DeltaNet"),
        ("torch.autograd.grad(hidden_states.sum(), hidden_states)", "torch.enable_grad()"),
        ("self.forward()", "give its other parameters defaults"),
        ("nn.Module.__new__(nn.Module).a = nn.Linear(1, 1)", "begin it with super().__init__()"),
        ("self.forward(hidden_states)", "super().__getattr__"),
        ("__import__('collections').abc.Sized()", "define each of them"),
        (
            "x = nn.Linear(1, 1).weight\n        torch.autograd.grad((x + 1).sum(), x + 1)",
            "detach().clone()",
        ),
        (
            "y = hidden_states.requires_grad_().exp().sum()\n        y.backward()\n        y.backward()",
            "what it needs of another layer, which would lose gradients by that, compute again from its own hidden",
        ),
        ("batch, length = hidden_states.shape", "hidden states are [batch, length, width]; a class that takes tokens"),
        ("raise PermissionError(1, 'refused', '/a/torch/_inductor/__init__.py')", "such as torch.use_deterministic"),
        ("raise PermissionError(1, 'refused', '/a/json.py')", "imports a module that is not loaded"),
        ("raise PermissionError(1, 'Operation not permitted')", "starts a process, sends a signal or"),
        ("torch.empty(1 << 60)", "a tensor is too large for the memory that a program may use: sum products by"),
        ("hidden_states.permute(0, 3, 1, 2)", "permutes more dimensions than a tensor has: hidden states are [batch"),
        (
            "raise ImportError('Please install Flash Attention via `pip install flash-attn`')",
            "none can be installed: compute the same in plain torch",
        ),
        ("self.a = self\n        self.train()", "an attribute of one of its own parts"),
        ("torch.eye(3).to_sparse().nbytes", "make dense ones"),
        ("return [][1]", "IndexError: list index out of range, raised in line 9 (Mixer.forward): return [][1]"),
    ],
)
def test_an_error_without_a_cause_gets_a_cause(body: str, message: str) -> None:
    """The author sees only the message."""
    program = kind("Mixer").replace("        return hidden_states\n", f"        {body}\n")
    errors = (AssertionError, AttributeError, ImportError, IndexError, OSError, RuntimeError, TypeError, ValueError)
    with pytest.raises(errors) as raised:
        load_mixer(HEAD + program, SIZES)(torch.randn(1, 3, 16))

    assert message in explain(raised.value)


def test_a_program_that_cannot_be_used_is_refused_in_one_sentence() -> None:
    """Names of this package's exceptions and lines of its own code tell a program's author nothing."""
    with pytest.raises(ProgramError) as raised:
        load_mixer("import torch\n", SIZES)

    assert explain(raised.value).startswith("the program defines no nn.Module: define one")
    assert traceback_tail(raised.value) == ""


@pytest.mark.parametrize(
    ("exponential", "where"), [("hidden_states.exp()", "forward"), ("(lambda x: x.exp())(hidden_states)", "<lambda>")]
)
def test_an_error_of_the_backward_pass_names_the_line_of_the_forward(exponential: str, where: str) -> None:
    """Torch raises it in its own code, where no line of the program runs."""
    body = f"        y = {exponential}\n        y += 1\n        return y +"
    program = kind("Mixer").replace("        return", body)
    mixer = load_mixer(HEAD + program, SIZES)

    def step() -> None:
        torch.autograd.backward(mixer(torch.randn(1, 3, 16).requires_grad_()).sum())

    with pytest.raises(RuntimeError) as raised:
        step()

    assert "write x = x + y, not x += y, and append what a loop would write to x[:, t]" in explain(raised.value)
    assert f"raised in line 9 ({where}): y = {exponential}" in explain(raised.value, step)
