"""What chapter 05c says about its stored agents: keys and doors, and Alien."""

import numpy as np
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

CHAPTER = load_chapter("ch05c_relations")
TRAINED, MORE_DOORS, DOUBLED, WIDE = (
    CHAPTER.TRAINED,
    CHAPTER.MORE_DOORS,
    CHAPTER.DOUBLED,
    CHAPTER.WIDE,
)
_stored = CHAPTER.stored  # a network, where, what -> [S]


def _floor(rule: str, setting: str) -> float:
    return _stored("floors", setting, rule).mean()


def _curves(net: str, name: str) -> np.ndarray:
    return results.curves("A6", f"match_{net}", name)


def _above(values: np.ndarray, floor: float) -> bool:
    """Whether the 95 % interval of the mean over seeds lies above."""
    return stats.ttest_1samp(values, 0).confidence_interval(0.95).low > floor


# Keys and doors


def match_floors() -> None:
    """Worlds that nobody can solve, what rules without comparison bring, and random play."""
    assert 20 < 100 - results.metric("A6", "match_floors", "solvable").mean() < 25
    assert 50 < _floor("any key", TRAINED) < 58 and 30 < _floor("any key", DOUBLED) < 36
    assert 57 < _floor("most doors", TRAINED) < 63 and 66.7 < _floor("most doors", DOUBLED) < 73
    for setting in CHAPTER.SETTINGS:
        assert (
            _floor("any key", setting) <= _floor("no twin", setting) < _floor("most doors", setting)
        )
        assert _floor("random", setting) < 10


def match_learns() -> None:
    """At home attention and averages end alike, averages later; the loudest still rises; itself stays far behind."""
    dot, even, loudest, own = (
        _stored(net, TRAINED, "goal") for net in ("dot", "even", "loudest", "own")
    )
    assert dot.min() > 90 and even.min() > 85 and abs(dot.mean() - even.mean()) < 5
    assert loudest.mean() < even.mean() - 5 and own.max() < loudest.min() - 10
    curves = {net: _curves(net, "reached").mean(0) for net in ("dot", "even", "loudest")}
    smooth = {net: np.convolve(curve, np.ones(10) / 10, "valid") for net, curve in curves.items()}
    halves = {net: int((curve > 0.5).argmax()) for net, curve in smooth.items()}
    assert 1.1 * halves["dot"] < halves["even"] < 2 * halves["dot"]
    late = curves["loudest"][-80:]
    assert late[40:].mean() > late[:40].mean() + 0.003


def match_unfinished() -> list[float]:
    """Goals at home of the loudest, with more chance too, and of attention, at the end of training."""
    loose = _stored("loose_loudest", TRAINED, "loose").mean()
    return [
        _stored("loudest", TRAINED, "goal").mean(),
        loose,
        _stored("dot", TRAINED, "goal").mean(),
    ]


def match_more() -> list[float]:
    """Goals among four keys and four doors: attention above all rules, then the loudest, then averages, in every seed."""
    dot, loudest, even = (_stored(net, DOUBLED, "goal") for net in ("dot", "loudest", "even"))
    assert _above(dot, _floor("most doors", DOUBLED))
    assert dot.min() > loudest.max() and loudest.min() > even.max()
    minigrid = results.metric("A6", "match_dot", "minigrid").mean()
    loose = [_stored(f"loose_{net}", DOUBLED, "loose") for net in ("even", "loudest", "dot")]
    assert loose[2].min() > loose[1].max() and loose[1].mean() > loose[0].max()
    at_home = [_stored(net, TRAINED, "goal").mean() for net in ("dot", "even")]
    assert 0 < at_home[0] - at_home[1] < 4
    found = [dot, minigrid, even, loudest, *loose]
    return [float(np.mean(part)) for part in found]


def match_choice() -> None:
    """Keys without a twin: all compare, wherever they are, above the strongest rule for the same worlds."""
    assert 86 < _stored("even", DOUBLED, "forced").mean() < 89  # seven of eight
    for net in CHAPTER.NAMES:
        for setting in CHAPTER.SETTINGS:
            assert _stored(net, setting, "forced").min() > _floor("rule, forced", setting) + 10


def match_twins() -> list[float]:
    """All keys: attention without fault, the loudest in four of five, averages and itself no better than the rule."""
    dot, loudest, even, own = (
        _stored(f"loose_{net}", DOUBLED, "all keys") for net in ("dot", "loudest", "even", "own")
    )
    rule = _floor("rule, all keys", DOUBLED)
    assert dot.min() > 99.5 and np.sort(loudest)[1] > 95 and loudest.min() < 90
    assert even.mean() < rule and not _above(own, rule)
    for net in CHAPTER.NAMES:
        two = [_stored(f"loose_{net}", at, "all keys") for at in (TRAINED, MORE_DOORS)]
        assert np.min(two[0]) > 85 and np.min(two[1]) > _floor("rule, all keys", MORE_DOORS) + 10
    assert dot.min() > 99.5 and 70 < loudest.min() < 80  # one world of four
    setting = "4 keys, 2 doors, side 7"
    fewer = [_stored(f"loose_{net}", setting, "all keys").mean() for net in ("even", "own")]
    return [even.mean(), own.mean(), rule, *fewer, _floor("rule, all keys", setting)]


def match_way() -> list[float]:
    """Four and four: averages stall; itself chooses wrong keys; and the right key is not yet the goal."""
    even = {what: _stored("even", DOUBLED, what).mean() for what in ("none", "right", "goal")}
    own, dot = (
        {what: _stored(net, DOUBLED, what).mean() for what in ("wrong", "right", "goal")}
        for net in ("own", "dot")
    )
    assert _stored("even", DOUBLED, "none").min() > _stored("own", DOUBLED, "none").max() + 5
    return [
        even["none"],
        own["wrong"],
        own["right"],
        even["right"],
        even["goal"],
        dot["right"],
        dot["goal"],
    ]


def _away_at(net: str, skill: float) -> np.ndarray:
    """Goals among four and four where an agent's skill at home reaches this, between two judgements by a straight line."""
    found = []
    for home, away in zip(_curves(net, "home"), _curves(net, "away"), strict=True):
        after = int((home >= skill).argmax())
        if home[after] >= skill:
            before = max(after - 1, 0)
            share = (skill - home[before]) / max(home[after] - home[before], 1e-9)
            found.append(away[before] + share * (away[after] - away[before]))
    return np.array(found)


def match_skill() -> list[float]:
    """At equal skill at home: attention and the loudest alike up to a half, then attention ahead, seeds overlapping."""
    for skill in (20, 30, 40, 50):
        dot, loudest = (_away_at(net, skill).mean() for net in ("dot", "loudest"))
        assert abs(dot - loudest) < 5
    for skill in (20, 50, 70, 90):
        assert _away_at("even", skill).mean() < 5
    dot, loudest = (_away_at(net, 70) for net in ("dot", "loudest"))
    assert len(dot) == 5 and len(loudest) >= 4 and loudest.max() > dot.min()
    return [dot.mean(), loudest.mean()]


def match_long() -> list[float]:
    """The loudest with 30,000 updates: at home as attention; among four and four two of three above the strongest rule."""
    home, away = (_stored("loudest_long", at, "goal") for at in (TRAINED, DOUBLED))
    dot = _stored("dot", DOUBLED, "goal")
    assert abs(home.mean() - _stored("dot", TRAINED, "goal").mean()) < 2
    assert sorted(away > _floor("most doors", DOUBLED)) == [False, True, True]
    return [home.mean(), *away, dot.min(), dot.max()]


def match_mixed() -> list[float]:
    """Trained with mixed numbers: goals among four and four of averages, before and now, of attention and the loudest."""
    found = {net: _stored(f"{net}_mixed", DOUBLED, "goal") for net in ("even", "dot", "loudest")}
    before, plain = (_stored(net, DOUBLED, "goal") for net in ("even", "dot"))
    assert all(len(seeds) == 3 for seeds in found.values())
    assert found["even"].min() > before.max() + 20
    assert found["dot"].min() > max(found["even"].max(), found["loudest"].max())
    gained = found["even"].mean() - before.mean()
    assert gained > 0.5 * (found["dot"].mean() - before.mean()) and gained > 0.5 * (
        plain.mean() - before.mean()
    )
    rising = _curves("even_mixed", "away").mean(0)
    assert rising[-1] > rising[-2] > rising[-3]
    assert found["even"].mean() < _floor("most doors", DOUBLED)
    fewer = "4 keys, 2 doors, side 7"
    assert _stored("even_mixed", fewer, "goal").mean() < _floor("most doors", fewer)
    away = [found[net].mean() for net in ("even", "dot", "loudest")]
    return [before.mean(), *away]


def match_summary() -> None:
    """What the summary says is what the chapter says."""
    match_more(), match_twins(), match_mixed(), match_long(), match_rooms()
    for net in CHAPTER.NAMES:
        where = [at for at in (MORE_DOORS, DOUBLED) if net != "dot"]
        assert all(_stored(net, at, "goal").mean() < _floor("most doors", at) for at in where)
    for at in (MORE_DOORS, DOUBLED, "4 keys, 2 doors, side 7"):
        assert _above(_stored("dot", at, "goal"), _floor("most doors", at))
    match_forbid(), match_both(), match_by_lot()


def match_counting() -> list[float]:
    """Weights kept by kind help averages much with four doors, and hardly with four of each."""
    before, after = (
        _stored("even", where, "goal") for where in (MORE_DOORS, f"by kind, {MORE_DOORS}")
    )
    assert (after > before + 20).all()
    assert _stored("even", f"by kind, {DOUBLED}", "goal").max() < 15
    return [before.mean(), after.mean()]


def match_forbid() -> list[float]:
    """Two looks cost both most goals; averages choose as keys come without the first, rightly without the second."""
    for net in ("dot", "even"):
        goals = {
            (a, b): _stored(net, f"without {a} {b}", "goal").mean()
            for a in CHAPTER.KINDS
            for b in CHAPTER.KINDS
        }
        worst = sorted(goals, key=goals.get)[:2]
        assert set(worst) == {("key", "door"), ("door", "key")}
    right, wrong = (_stored("even", "without key door", what) for what in ("right", "wrong"))
    assert sorted(right / (right + wrong) < 0.6) == [False, *[True] * 4]
    right, goal = (_stored("even", "without door key", what) for what in ("right", "goal"))
    assert sorted(right > 90) == [False, *[True] * 4]
    return [goal.min(), goal.max()]


def match_forbid_door() -> None:
    """Attention chooses no key without the look from door to key; without that from key to door it depends on the agent."""
    assert sum(_stored("dot", "without door key", what) for what in ("right", "wrong")).max() < 2
    right = _stored("dot", "without key door", "right")
    assert right.min() < 1 and right.max() > 90
    assert sorted(_stored("dot", "without key door", "goal") < 5) == [False, *[True] * 4]


def match_forbid_rest() -> None:
    """One agent needs its own look at doors, another the doors' look at the goal, a third neither."""
    own, doors = (_stored("dot", f"without {pair}", "goal") for pair in ("agent door", "door goal"))
    assert sorted(own < 50) == sorted(doors < 50) == [False] * 4 + [True]
    assert own.argmin() != doors.argmin()
    assert (np.minimum(own, doors) > 90).sum() == 1


def match_exchange() -> None:
    """Keys that exchange looks: four of five agents still choose the right key mostly; doors that do change next to nothing."""
    right = np.sort(_stored("dot", "keys exchanged", "right"))
    assert right[0] < 2 and right[1] > 60
    for what in ("goal", "right", "first right"):
        there = [_stored("dot", at, what).mean() for at in (TRAINED, "doors exchanged")]
        assert abs(there[0] - there[1]) < 2


def match_mistake() -> None:
    """Doors that take one key for the other: hardly anybody chooses the right one, one agent the wrong one."""
    right, wrong = (_stored("dot", "keys mistaken", what) for what in ("right", "wrong"))
    assert right.max() < 11 and right.mean() < 5
    assert (wrong > 50).sum() == 1 and (wrong < 20).sum() == 4
    assert 45 < _stored("dot", "keys mistaken", "none").mean() < 55


def match_both() -> list[float]:
    """Both lies: all agents go to the wrong key and choose it, hardly ever the right one."""
    wrong, right = (_stored("dot", "both", what) for what in ("wrong", "right"))
    first = _stored("dot", "both", "first wrong")
    assert first.min() > 70 and wrong.min() > 35 and right.max() < 2
    return [first.mean(), wrong.mean()]


def match_by_lot() -> list[float]:
    """Seed 1, keys exchanged: it chooses no wrong key, chance takes keys; its forced choice is wrong. Not so the others."""
    chosen, lot = (_stored("dot", "keys exchanged", what) for what in ("wrong", "lot"))
    assert chosen[0] == 0 and lot[0] > 40 and chosen.max() < 2
    forced = _stored("dot", "keys exchanged", "forced")
    assert forced[0] < 10 and (forced[1:] > 90).all()
    return [lot[0]]


def match_whom() -> None:
    """The right key looks at its door, the wrong one at itself; both more than at anybody else."""
    for key, whom in (("right key", "the pair's door"), ("wrong key", "itself")):
        looks = {seen: _stored("dot", key, seen) for seen in CHAPTER.WHOM}
        for seen, weight in looks.items():
            assert seen == whom or (looks[whom] > weight).all()
        assert looks[whom].mean() > 0.5


def match_partner() -> None:
    """The best head of the key finds its partner among four as among two, far more often than an untrained net's."""
    for setting in (TRAINED, DOUBLED):
        assert _stored("dot", setting, "finds its door").min() > 95
        assert _stored("dot", setting, "untrained finds").max() < 75


def match_rooms() -> list[float]:
    """Larger rooms: all fall; attention's lead over averages is within chance; keys ranked well; more chance helps."""
    dot, even, loudest = (_stored(net, WIDE, "goal") for net in ("dot", "even", "loudest"))
    between = stats.ttest_ind(even, dot, equal_var=False).confidence_interval(0.95)
    assert between.low < 0 < between.high and loudest.mean() < _floor("any key", WIDE)
    for net in ("dot", "even", "loudest"):
        assert _stored(net, WIDE, "wrong").max() < 1
        assert _stored(net, WIDE, "forced").min() > 99
    for net in ("dot", "even"):
        assert 8 < _stored(net, WIDE, "none").mean() < 14
        assert _stored(net, WIDE, "right").mean() - _stored(net, WIDE, "goal").mean() > 10
    home = [_stored(net, TRAINED, "goal").mean() for net in ("dot", "even")]
    loose = [_stored(f"loose_{net}", WIDE, "loose").mean() for net in ("dot", "even")]
    mixed = _stored("dot_mixed", WIDE, "goal").mean()
    return [home[0], dot.mean(), home[1], even.mean(), loudest.mean(), *loose, mixed]


def match_near() -> list[float]:
    """Things drawn in to where they were in training bring back most of what larger rooms took."""
    told = []
    for net in ("dot", "even"):
        home, far, near = (
            _stored(net, where, "goal") for where in (TRAINED, WIDE, f"near, {WIDE}")
        )
        assert (near > far).all() and (near - far).mean() > 0.8 * (home - far).mean()
        told += [far.mean(), near.mean()]
    return told


# Alien


def _games(name: str, noise: str = "score") -> np.ndarray:
    """Scores of the whole games of every seed: [S, games]."""
    return results.curves("A10", name, f"games_{noise}")


def _blind(kind: str) -> np.ndarray:
    """All games of the best policy of a kind that does not look."""
    return results.curves("A10", "alien_floors", kind).ravel()


def _lead(games: np.ndarray, floor: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the difference of two means over games (Welch)."""
    found = stats.ttest_ind(games, floor, equal_var=False).confidence_interval(0.95)
    return found.low, found.high


_looks = CHAPTER.asked  # what was found, seed by seed


def alien_floor() -> None:
    """Held moves are the strongest of those that do not look; every game of one action is the same."""
    held, random, single = (_blind(kind).mean() for kind in ("held", "random", "single"))
    assert single < random and 2.7 < held / random < 3.3
    assert _blind("single").std() == 0
    kinds = CHAPTER.blind_policies(CHAPTER.FloorConfig(), np.random.default_rng(0))["held"]
    best = int(results.metric("A10", "alien_floors", "held_best").item())
    assert list(kinds)[best] == "diagonal, firing, held 32" and len(kinds) == 30


def alien_trained() -> None:
    """Every seed lies above random actions and above the best single action, by the interval, with either noise."""
    for noise in CHAPTER.NOISES:
        for games in _games("alien", noise):
            assert all(_lead(games, _blind(kind))[0] > 0 for kind in ("random", "single"))


def alien_floors_beaten() -> list[float]:
    """How many seeds lie above the best held moves by the interval: single random moves, held ones; all do on average."""
    leads = {
        n: [_lead(games, _blind("held")) for games in _games("alien", n)] for n in CHAPTER.NOISES
    }
    assert all(low + high > 0 for seeds in leads.values() for low, high in seeds)
    without = {
        n: [_lead(games, _blind("held"))[0] > 0 for games in _games("alien_nothing", n)]
        for n in CHAPTER.NOISES
    }
    counts = [sum(low > 0 for low, _ in leads[noise]) for noise in CHAPTER.NOISES]
    return [*counts, *(sum(without[noise]) for noise in CHAPTER.NOISES)]


def alien_control() -> list[float]:
    """Without attention more points: by the interval over seeds with single random moves, on average with held ones."""
    told = []
    for noise in CHAPTER.NOISES:
        attention, nothing = (
            results.metric("A10", name, noise) for name in ("alien", "alien_nothing")
        )
        found = stats.ttest_ind(nothing, attention, equal_var=False).confidence_interval(0.95)
        told += [nothing.mean() - attention.mean(), found.low, found.high]
    assert told[1] > 0 and told[4] < 0 < told[3]
    return told


def alien_summary() -> None:
    """What the summary says is what the chapter says."""
    alien_control(), alien_cover_control(), alien_hidden(), alien_figures()


def alien_cover() -> None:
    """Covering the most attended node changes more moves than a random one's, in every seed; the least attended in one."""
    most, random = (_looks(f"flips_{which}") for which in ("most", "random"))
    assert (most > 1.5 * random).all()
    assert (_looks("flips_least") > random).sum() == 1


def alien_cover_control() -> None:
    """The same nodes matter as much to an agent that looks nowhere."""
    own, other = (_looks(f"{who}flips_most") for who in ("", "other_"))
    assert (other > 1.5 * _looks("other_flips_random")).all() and other.mean() > 0.75 * own.mean()


def alien_hidden() -> list[float]:
    """Hidden: the brightest node costs more moves than others of the same mass; in two of three no more than one place."""
    most, equal, fixed = (_looks(f"hidden_flips_{which}") for which in ("most", "equal", "fixed"))
    assert (most > equal).all()
    assert (_looks("mass_equal") >= _looks("largest")).all()  # they weigh no less
    assert sorted(fixed > 0.85 * most) == [False, True, True]
    two = fixed > 0.85 * most
    pairs = [(part[two].min(), part[two].max()) for part in (_looks("same_node"), most, _looks("flips_most"))]  # fmt: skip
    return [most.min(), most.max(), equal.min(), equal.max(), *fixed, *np.ravel(pairs)]


def alien_player() -> None:
    """Covering the player changes as many moves as covering an alien; hiding its node fewer than half as many."""
    covered, hidden = _looks("flips_player"), _looks("hidden_flips_player")
    assert covered.mean() > 0.85 * _looks("flips_alien").mean()
    assert (hidden < 0.5 * covered).all()


def alien_figures() -> list[float]:
    """Light goes where an alien is, in all three; how much of the map is place; what is in the brightest node."""
    lift, place = _looks("alien_looks") / _looks("alien_place"), _looks("place")
    most, chance = (_looks(f"{who}_is_alien") for who in ("most", "chance"))
    assert (most > 1.5 * _looks("another_is_alien")).all()
    player = _looks("most_is_player") > 2 * _looks("another_is_player")
    assert player.sum() == 1 and (_looks("most_is_bonus") < _looks("chance_is_bonus")).all()
    shares = [most.min(), most.max(), chance.mean(), place.min(), place.max()]
    lifted = _looks("player_looks") / _looks("player_place")
    shares += [lifted.min(), lifted.max()]
    return [lift.min(), lift.max(), *shares, _looks("same_node").max()]


def alien_maps() -> list[float]:
    """Moves that a frozen map changes, and another instant's, which changes more."""
    frozen, another = _looks("frozen_flips"), _looks("another_flips")
    assert (another > frozen).all()
    return [frozen.min(), frozen.max(), another.min(), another.max()]
