"""Losses and their gradients against references in float64 that are written out another way."""

import pytest
import torch

from tasks.engines.training import losses

TOKENS, VOCABULARY = 40, 12


def logits(seed: int) -> torch.Tensor:
    return torch.randn(TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sampled_ids() -> torch.Tensor:
    return torch.randint(VOCABULARY, (TOKENS, 1), generator=torch.Generator().manual_seed(9))


def of(values: torch.Tensor) -> torch.Tensor:
    return values.log_softmax(-1).gather(1, sampled_ids())[:, 0]


@pytest.mark.parametrize("clip", [1.0, 0.2, 5.0, None])
def test_policy_weighs_each_sampled_token_by_what_the_teacher_says_of_it(clip: float | None) -> None:
    student = logits(1).requires_grad_()
    q, t = of(logits(2)), of(logits(3))
    loss = losses.policy(of(student), q, t, clip)
    loss.sum().backward()
    probabilities = torch.softmax(student.detach(), -1)
    for place in range(TOKENS):
        token = int(sampled_ids()[place])
        p = float(probabilities[place, token])
        advantage = float(t[place]) - torch.tensor(p).double().log().item()
        advantage = advantage if clip is None else max(-clip, min(clip, advantage))
        weight = min(p / float(q[place].exp()), 2.0) * advantage
        expected = -weight * ((torch.arange(VOCABULARY) == token).double() - probabilities[place])
        assert student.grad is not None
        torch.testing.assert_close(student.grad[place], expected)
        assert float(loss[place].detach()) == pytest.approx(-weight * torch.tensor(p).double().log().item())


@pytest.mark.parametrize("k", [1, 4, VOCABULARY - 1])
def test_forward_kl_is_that_of_the_likeliest_tokens_and_the_rest_as_one(k: int) -> None:
    student = logits(1).requires_grad_()
    teacher = logits(3).log_softmax(-1)
    t, ids = teacher.topk(k, -1)
    loss = losses.forward_kl(student.log_softmax(-1).gather(1, ids), t)
    p, s = t.exp(), torch.softmax(student, -1).gather(1, ids)
    both = [torch.cat([each, 1 - each.sum(-1, keepdim=True)], -1) for each in (p, s)]
    expected = torch.distributions.kl_divergence(*(torch.distributions.Categorical(probs=each) for each in both))
    torch.testing.assert_close(loss, expected)
    [ours] = torch.autograd.grad(loss.sum(), student, retain_graph=True)
    [theirs] = torch.autograd.grad(expected.sum(), student)
    torch.testing.assert_close(ours, theirs)


def test_forward_kl_of_all_tokens_is_the_whole_divergence() -> None:
    student, teacher = logits(1).log_softmax(-1), logits(3).log_softmax(-1)
    whole = torch.nn.functional.kl_div(student, teacher, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(losses.forward_kl(student, teacher), whole, rtol=1e-5, atol=1e-5)


def test_a_place_that_was_filled_up_weighs_nothing() -> None:
    student, teacher = logits(1).log_softmax(-1)[:, :3], logits(3).log_softmax(-1)[:, :3]
    filled = [torch.cat([each, torch.full((TOKENS, 2), -1e4, dtype=torch.float64)], -1) for each in (student, teacher)]
    torch.testing.assert_close(losses.forward_kl(*filled), losses.forward_kl(student, teacher))


def test_a_student_that_is_its_teacher_learns_nothing() -> None:
    student = logits(1).requires_grad_()
    now = of(student)
    [gradient] = torch.autograd.grad(losses.policy(now, now.detach(), now.detach(), 1.0).sum(), student)
    assert not gradient.any()
    t, ids = student.detach().log_softmax(-1).topk(4, -1)
    [gradient] = torch.autograd.grad(losses.forward_kl(student.log_softmax(-1).gather(1, ids), t).sum(), student)
    assert gradient.abs().max() < 1e-15


def test_preference_is_minus_the_logarithm_of_the_chance_that_the_better_answer_wins() -> None:
    generator = torch.Generator().manual_seed(4)
    pairs, reference = (torch.randn(20, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    pairs.requires_grad_()
    loss, margins = losses.preference(pairs, reference, 0.3)
    chance = ((pairs[:, 0] - reference[:, 0]) * 0.3).exp()
    chance = chance / (chance + ((pairs[:, 1] - reference[:, 1]) * 0.3).exp())
    torch.testing.assert_close(loss, -chance.log())
    [ours], [theirs] = (torch.autograd.grad(each.sum(), pairs, retain_graph=True) for each in (loss, -chance.log()))
    torch.testing.assert_close(ours, theirs)
    assert bool(((margins > 0) == (chance > 0.5)).all())
