from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import save_tiny, shake, tiny_model, tiny_trunk
from torch import Tensor

from manners import cli
from manners.batches import Rollouts
from manners.errors import MannersError
from manners.models.heads import ScalarHead
from manners.models.load import load_trunk
from manners.models.trunk import TrainLayers, Trunk
from manners.protocols import Committee
from manners.records import Completion, Prompt
from manners.rewards.combine import worst_case
from manners.rewards.ensemble import RewardEnsemble, average_adapters, is_ensemble
from manners.rewards.model import RewardModel
from manners.rewards.opinion import ask
from manners.sampling.local import LocalSampler

torch.set_num_threads(1)

PROMPTS = [Prompt.of("Question " + "?" * (3 * i % 7)) for i in range(5)]
ANSWERS = [Completion(p.id, t) for p, t in zip(PROMPTS, ["no", "yes, of course", "", "it depends", "a b"], strict=True)]
KINDS: list[tuple[str, TrainLayers]] = [("llama", 2), ("gpt2", 1), ("llama", "all")]
SCALES = [(0.3, 2.5), (-1.0, 0.5), (0.0, 1.0)]  # mean and standard deviation of each member's raw rewards


def member(trunk: Trunk, number: int, read: Any = "mean", rank: int = 4, adapter: str = "reward") -> RewardModel:
    """A reward model that says something of its own, on a scale of its own."""
    name = f"{adapter}-{number}"
    trunk.adapters.add(name, rank=rank, alpha=8, seed=number)
    shake(trunk, name, std=0.15, seed=number)
    head = ScalarHead.for_reward(trunk.width, 10 + number)
    with torch.no_grad():
        head.linear.bias.fill_(0.1 * (number + 1))
    return RewardModel(trunk, name, head, read, *SCALES[number])


def ensemble(trunk: Trunk, count: int = 3) -> RewardEnsemble:
    return RewardEnsemble([member(trunk, number) for number in range(count)])


def rollouts_of(trunk: Trunk) -> Rollouts:
    trunk.adapters.add("policy", rank=2, alpha=4, seed=9)
    shake(trunk, "policy", std=0.15, seed=9)
    return LocalSampler(trunk, "policy").sample(PROMPTS, max_tokens=8, temperature=1.0, seed=0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "base")


def saved(base: Path, count: int = 3) -> tuple[Path, Tensor]:
    """An ensemble in a folder beside its base, and what its members say of the answers."""
    made = ensemble(load_trunk(str(base), 2), count)
    made.save(base.parent / "judges")
    return base.parent / "judges", made.opinions_of_texts(PROMPTS, ANSWERS)


def saved_alone(base: Path, number: int) -> Path:
    """A single reward model in a folder beside its base."""
    folder = base.parent / f"{base.name}-judge-{number}"
    member(load_trunk(str(base), 2), number).save(folder)
    return folder


# --- opinions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "train_layers"), KINDS)
def test_opinions_are_what_each_member_says_by_itself(kind: str, train_layers: TrainLayers) -> None:
    trunk = tiny_trunk(kind, train_layers)
    judges, rollouts = ensemble(trunk), rollouts_of(trunk)
    opinions, of_texts = judges.opinions(rollouts), judges.opinions_of_texts(PROMPTS, ANSWERS)
    for column, single in enumerate(judges.members):
        assert torch.equal(opinions[:, column], single.score(rollouts))
        assert torch.equal(of_texts[:, column], single.score_texts(PROMPTS, ANSWERS))
    assert opinions.std(1).min() > 1e-3
    assert (opinions.shape, opinions.dtype) == ((5, 3), torch.float32)


def test_the_score_combines_the_opinions() -> None:
    trunk = tiny_trunk(train_layers=2)
    judges, rollouts = ensemble(trunk), rollouts_of(trunk)
    opinions = judges.opinions(rollouts)
    torch.testing.assert_close(judges.score(rollouts), (opinions[:, 0] + opinions[:, 1] + opinions[:, 2]) / 3)
    severe = RewardEnsemble(judges.members, worst_case)
    assert severe.score(rollouts).tolist() == [min(row) for row in opinions.tolist()]
    assert (severe.score(rollouts) < judges.score(rollouts)).all()


def test_an_ensemble_is_a_committee_and_a_single_judge_is_none() -> None:
    trunk = tiny_trunk(train_layers=2)
    judges, rollouts = ensemble(trunk, 2), rollouts_of(trunk)
    assert isinstance(judges, Committee)
    assert not isinstance(judges.members[0], Committee)
    first, second = (single.score(rollouts) for single in judges.members)
    opinion = ask(judges, rollouts, "the judge")
    torch.testing.assert_close(opinion.scores, (first + second) / 2)
    assert opinion.disagreement is not None
    torch.testing.assert_close(opinion.disagreement, (first - second).abs() / 2)


def test_members_that_are_the_same_do_not_disagree(base: Path) -> None:
    folder, trunk = saved_alone(base, 0), load_trunk(str(base), 2)
    judges, rollouts = RewardEnsemble.gather([folder] * 4, trunk, "reward"), rollouts_of(trunk)
    opinion = ask(judges, rollouts, "the judge")
    assert opinion.disagreement is not None
    assert opinion.disagreement.tolist() == [0.0] * 5
    assert torch.equal(opinion.scores, RewardModel.load(folder, trunk, "alone").score(rollouts))


def test_an_adapter_that_is_on_elsewhere_does_not_matter_and_stays_on() -> None:
    trunk = tiny_trunk(train_layers=2)
    judges, rollouts = ensemble(trunk), rollouts_of(trunk)
    quiet = judges.opinions(rollouts)
    with trunk.adapters.using("policy"):
        assert torch.equal(judges.opinions(rollouts), quiet)
        assert {layer.active for layer in trunk.adapters.layers.values()} == {"policy"}


def test_there_is_no_ensemble_of_nobody() -> None:
    with pytest.raises(MannersError, match="at least one reward model"):
        RewardEnsemble([])


# --- branch states are computed once --------------------------------------------------------------------------------


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often any trunk ran its layers below and above the branch."""
    counts = {"below": 0, "above": 0}
    states, hidden = Trunk.states, Trunk.hidden_at

    def below(self: Trunk, *arguments: Any) -> Tensor:
        counts["below"] += 1
        return states(self, *arguments)

    def above(self: Trunk, *arguments: Any) -> Tensor:
        counts["above"] += 1
        return hidden(self, *arguments)

    monkeypatch.setattr(Trunk, "states", below)
    monkeypatch.setattr(Trunk, "hidden_at", above)
    return counts


def test_on_the_trunk_that_sampled_nothing_below_the_branch_runs_again(passes: dict[str, int]) -> None:
    trunk = tiny_trunk(train_layers=2)
    judges, rollouts = ensemble(trunk), rollouts_of(trunk)
    passes.update(below=0, above=0)
    judges.opinions(rollouts)
    assert passes == {"below": 0, "above": 3}


def test_on_a_trunk_of_their_own_members_share_the_states(passes: dict[str, int]) -> None:
    judges, rollouts = ensemble(tiny_trunk(train_layers=2)), rollouts_of(tiny_trunk(train_layers=2))
    passes.update(below=0, above=0)
    judges.opinions(rollouts)
    assert passes == {"below": 1, "above": 3}


def test_shared_states_give_what_separate_trunks_give(base: Path) -> None:
    folder, opinions = saved(base)
    apart = [RewardModel.load(folder / "members" / str(i)) for i in range(3)]
    assert len({id(single.trunk) for single in apart}) == 3
    assert torch.equal(torch.stack([single.score_texts(PROMPTS, ANSWERS) for single in apart], 1), opinions)
    trunk = load_trunk(str(base), 2)
    judges, rollouts = RewardEnsemble.load(folder, trunk), rollouts_of(trunk)
    assert all(single.trunk is trunk for single in judges.members)
    expected = torch.stack([single.score(rollouts) for single in apart], 1)
    torch.testing.assert_close(judges.opinions(rollouts), expected, atol=1e-4, rtol=1e-4)


# --- saving and loading ---------------------------------------------------------------------------------------------


def test_a_new_process_says_the_same_to_the_bit(base: Path) -> None:
    folder, opinions = saved(base)
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from manners.records import Completion, Prompt; from manners.rewards.ensemble import RewardEnsemble\n"
        "prompts = [Prompt.of('Question ' + '?' * (3 * i % 7)) for i in range(5)]\n"
        "texts = ['no', 'yes, of course', '', 'it depends', 'a b']\n"
        "answers = [Completion(p.id, t) for p, t in zip(prompts, texts)]\n"
        "found = RewardEnsemble.load(Path(sys.argv[1])).opinions_of_texts(prompts, answers)\n"
        "print(*(x.hex() for row in found.tolist() for x in row))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [x.hex() for row in opinions.tolist() for x in row]


def test_the_folder_holds_each_member_as_it_saves_itself(base: Path) -> None:
    folder, opinions = saved(base)
    assert json.loads((folder / "manners.json").read_text()) == {"role": "reward ensemble", "members": 3}
    assert sorted(p.name for p in folder.iterdir()) == ["manners.json", "members"]
    assert sorted(p.name for p in (folder / "members").iterdir()) == ["0", "1", "2"]
    for number in range(3):
        single = RewardModel.load(folder / "members" / str(number))
        assert (single.mean, single.std) == SCALES[number]
        assert torch.equal(single.score_texts(PROMPTS, ANSWERS), opinions[:, number])


def test_members_join_a_trunk_under_names_of_their_own(base: Path) -> None:
    folder, opinions = saved(base)
    trunk = load_trunk(str(base), 2)
    first, second = RewardEnsemble.load(folder, trunk), RewardEnsemble.load(folder, trunk, "second judge")
    assert sorted(trunk.adapters.rank) == [*(f"reward-{i}" for i in range(3)), *(f"second judge-{i}" for i in range(3))]
    for judges in (first, second):
        assert torch.equal(judges.opinions_of_texts(PROMPTS, ANSWERS), opinions)


def test_on_another_base_members_share_one_trunk_of_their_own(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, opinions = saved(base)
    loaded: list[str] = []

    def counted(name: str, *arguments: Any, **settings: Any) -> Trunk:
        loaded.append(name)
        return load_trunk(name, *arguments, **settings)

    monkeypatch.setattr("manners.rewards.model.load_trunk", counted)
    other = tiny_trunk("gpt2", 2)
    judges = RewardEnsemble.load(folder, other)
    assert loaded == [str(base)]
    assert not other.adapters.rank
    assert torch.equal(judges.opinions_of_texts(PROMPTS, ANSWERS), opinions)


def test_judges_trained_apart_on_different_bases_are_an_ensemble(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = save_tiny(base.parent / "other", "gpt2", seed=3)
    folders = [saved_alone(base, 0), saved_alone(other, 1), saved_alone(base, 2)]
    loaded: list[str] = []

    def counted(name: str, *arguments: Any, **settings: Any) -> Trunk:
        loaded.append(name)
        return load_trunk(name, *arguments, **settings)

    monkeypatch.setattr("manners.rewards.model.load_trunk", counted)
    trunk = load_trunk(str(base), 2)
    judges, rollouts = RewardEnsemble.gather(folders, trunk, "reward"), rollouts_of(trunk)
    assert loaded == [str(other)]
    expected = torch.stack([single.score(rollouts) for single in judges.members], 1)
    assert torch.equal(judges.opinions(rollouts), expected)
    assert torch.equal(expected[:, 1], RewardModel.load(folders[1]).score_texts(rollouts.prompts, rollouts.completions))


def test_a_run_is_read_at_its_final_checkpoint_and_travels_with_its_base(base: Path) -> None:
    folder, opinions = saved(base)
    run = base.parent / "run"
    RewardEnsemble.load(folder).save(run / "checkpoints" / "final")
    (run / "lineage.json").write_text(json.dumps({"kind": "reward"}))
    there = base.parent.with_name(base.parent.name + "-moved")
    base.parent.rename(there)
    assert is_ensemble(there / "run")
    assert torch.equal(RewardEnsemble.load(there / "run").opinions_of_texts(PROMPTS, ANSWERS), opinions)


def test_what_is_no_ensemble_is_told(base: Path) -> None:
    for folder in (base, base.parent / "nowhere", saved_alone(base, 0)):
        assert not is_ensemble(folder)
        with pytest.raises(MannersError, match="holds no ensemble of reward models"):
            RewardEnsemble.load(folder)


def test_an_ensemble_is_no_member(base: Path) -> None:
    folder, _ = saved(base, 2)
    with pytest.raises(MannersError, match="judges is an ensemble already and cannot be a member of one"):
        RewardEnsemble.gather([saved_alone(base, 0), folder], None, "reward")


def test_a_member_that_is_missing_is_told(base: Path) -> None:
    folder, _ = saved(base)
    (folder / "members" / "1").rename(base.parent / "elsewhere")
    with pytest.raises(MannersError, match=r"members/1 holds no reward model"):
        RewardEnsemble.load(folder)


def test_a_full_disk_leaves_the_ensemble_that_was_there(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, opinions = saved(base, 2)
    other = RewardEnsemble(ensemble(load_trunk(str(base), 2)).members[::-1])

    def full_at_the_second(tensors: Any, file: Path) -> None:
        if file.parent.name.startswith(".1"):
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, file)

    monkeypatch.setattr("manners.rewards.model.save_file", full_at_the_second)
    with pytest.raises(MannersError, match="the disk is full"):
        other.save(folder)
    assert torch.equal(RewardEnsemble.load(folder).opinions_of_texts(PROMPTS, ANSWERS), opinions)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["base", "judges"]


# --- one model with the mean of the weights -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_average_adapter_changes_weights_by_the_mean_of_the_changes(kind: str) -> None:
    trunk = tiny_trunk(kind, 2)
    names = [member(trunk, number, rank=rank).adapter for number, rank in enumerate((2, 4, 3))]
    average_adapters(trunk.adapters, names, "average")
    assert trunk.adapters.rank["average"] == 9
    for layer in trunk.adapters.layers.values():
        changes = [layer.delta(name).double() for name in names]
        torch.testing.assert_close(
            layer.delta("average").double(), (changes[0] + changes[1] + changes[2]) / 3, atol=1e-6, rtol=1e-5
        )
        assert (changes[0] - changes[1]).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_averaged_judge_is_a_plain_model_with_averaged_weights(kind: str) -> None:
    trunk, plain = tiny_trunk(kind, 2), tiny_model(kind)
    judges = RewardEnsemble([member(trunk, number, "last", rank) for number, rank in enumerate((2, 4, 3))])
    for name, layer in trunk.adapters.layers.items():
        weight = plain.get_submodule(name).weight
        weight += sum(layer.delta(single.adapter) for single in judges.members) / 3
    weight = sum(m.head.linear.weight[0] / m.std for m in judges.members) / 3
    bias = sum((m.head.linear.bias[0] - m.mean) / m.std for m in judges.members) / 3
    chat = judges.members[0].chat
    expected = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        ids = torch.tensor([chat.prompt(prompt) + chat.completion(answer)])
        expected.append(float(plain.base_model(input_ids=ids).last_hidden_state[0, -1] @ weight + bias))
    scores = judges.average("reward").score_texts(PROMPTS, ANSWERS)
    assert scores.tolist() == pytest.approx(expected, abs=2e-5)
    assert (scores - judges.opinions_of_texts(PROMPTS, ANSWERS).mean(1)).abs().max() > 1e-2  # a network is not linear


def test_where_only_heads_differ_the_averaged_judge_says_the_mean() -> None:
    trunk = tiny_trunk(train_layers=2)
    judges = ensemble(trunk)
    for single in judges.members[1:]:
        trunk.adapters.load_state(single.adapter, trunk.adapters.state(judges.members[0].adapter))
    rollouts = rollouts_of(trunk)
    torch.testing.assert_close(judges.average("reward").score(rollouts), judges.score(rollouts), atol=1e-5, rtol=1e-5)


def test_the_average_of_members_that_are_the_same_is_that_member(base: Path) -> None:
    folder = saved_alone(base, 1)
    average = RewardEnsemble.gather([folder] * 3, None, "reward").average("reward")
    alone = RewardModel.load(folder).score_texts(PROMPTS, ANSWERS)
    torch.testing.assert_close(average.score_texts(PROMPTS, ANSWERS), alone, atol=1e-5, rtol=1e-5)


def test_the_averaged_judge_can_be_kept_as_a_single_one(base: Path) -> None:
    folder, _ = saved(base)
    average = RewardEnsemble.load(folder).average("reward")
    average.save(base.parent / "average")
    again = RewardModel.load(base.parent / "average").score_texts(PROMPTS, ANSWERS)
    assert torch.equal(again, average.score_texts(PROMPTS, ANSWERS))


def test_members_that_have_no_mean_are_told() -> None:
    trunk = tiny_trunk(train_layers=2)
    unlike = [
        RewardEnsemble([member(trunk, 0, "last"), member(trunk, 1, "mean")]),
        RewardEnsemble([member(trunk, 0), member(tiny_trunk(train_layers=2), 1)]),
    ]
    for judges in unlike:
        with pytest.raises(MannersError, match="one base that read alike"):
            judges.average("reward")


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_shows_every_member_and_the_mean(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = saved(base, 2)
    call = ["manners", "score", "no", "well, yes", "--reward", str(folder), "--prompt", "Question"]
    prompt = Prompt.of("Question")
    answers = [Completion(prompt.id, text) for text in ("no", "well, yes")]
    expected = RewardEnsemble.load(folder).opinions_of_texts([prompt] * 2, answers).tolist()
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", [*call, *more])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
    lines = capsys.readouterr().out.splitlines()
    for line, told, text, opinions in zip(lines[:2], lines[2:], ("no", "well, yes"), expected, strict=True):
        numbers = ", ".join(f"{x:+.3f}" for x in opinions)
        assert line == f"{sum(opinions) / 2:+.3f}  ({numbers.replace(',', '')})  {text}"
        row = json.loads(told)
        assert row["text"] == text
        assert row["members"] == pytest.approx(opinions, abs=1e-4)
        assert row["reward"] == pytest.approx(sum(opinions) / 2, abs=1e-4)
