"""Generate the built-in data set `sample`: Traditional Chinese paragraphs about invented subjects.

The data is synthetic and regular: it shows that training works and that good settings beat bad ones, but does not
measure quality on real questions. Each paragraph has one subject and states facts in pairs of one kind (two years,
two places), so that only the question's words tell which of the two is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from random import Random
from typing import Any, TypeVar

SIZES = {"train": 640, "valid": 96, "test": 96}  # paragraphs in each split; each paragraph has four questions
LENGTHS = range(60, 101)  # allowed lengths of a paragraph in characters

Row = dict[str, Any]
Stock = Callable[[Random], str]
T = TypeVar("T")


def sample_files(seed: int = 0) -> dict[str, Any]:
    """Return the content of the assignment's files: `context` (list[str]) and the rows of the three splits.

    >>> sample = sample_files()
    >>> row = sample["valid"][0]
    >>> start, text = row["answer"]["start"], row["answer"]["text"]
    >>> sample["context"][row["relevant"]][start : start + len(text)] == text
    True

    The same seed gives the same files on every machine. Test rows carry labels too.
    """
    rng = Random(seed)
    subjects = _subjects(rng)
    context: list[str] = []
    data: dict[str, Any] = {"context": context}
    for split, size in SIZES.items():
        batch = [_draw_paragraph(rng, *subject) for subject in islice(subjects, size)]
        data[split] = _split_rows(rng, split, batch, len(context))
        context.extend(paragraph.text for paragraph in batch)
    return data


# Random draws use only `random()`: it is Random's only method that gives the same values in every Python version.


def _between(rng: Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _pick(rng: Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def _in_random_order(rng: Random, items: Sequence[T]) -> list[T]:
    return sorted(items, key=lambda _: rng.random())


def _distinct(rng: Random, options: Sequence[T], count: int) -> list[T]:
    chosen: list[T] = []
    while len(chosen) < count:
        option = _pick(rng, options)
        if option not in chosen:
            chosen.append(option)
    return chosen


# Answers. The two answers of a pair come from two different stocks, for example villages and harbours. So a small model
# with random weights can learn to distinguish them, which is easier than in real text.

CHINESE = "〇一二三四五六七八九"
FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")


def _sentence(*parts: Sequence[str]) -> list[str]:
    return ["".join(choice) for choice in product(*parts)]


def _tens(number: int) -> str:
    """Write a number from 1 to 99 in Chinese: 76 as 七十六."""
    tens, ones = divmod(number, 10)
    return (CHINESE[tens] if tens > 1 else "") + ("十" if tens else "") + (CHINESE[ones] if ones else "")


def _year(rng: Random, year: int) -> str:
    chance = rng.random()
    if chance < 0.1:
        return f"{year}年".translate(FULL_WIDTH)
    if chance < 0.2:
        return "".join(CHINESE[int(digit)] for digit in str(year)) + "年"
    if chance < 0.4 and year < 2000:
        return f"民國{_tens(year - 1911)}年"
    return f"{year}年"


def early_year(rng: Random) -> str:
    return _year(rng, _between(rng, 1925, 1969))


def late_year(rng: Random) -> str:
    return _year(rng, _between(rng, 2001, 2024))


def one_of(options: str | Sequence[str]) -> Stock:
    options = options.split() if isinstance(options, str) else options
    return lambda rng: _pick(rng, options)


YEARS = (early_year, late_year)
PLACES = (
    one_of(_sentence("霧硯葭", "澤崁坪墘", "村鄉")),
    one_of(_sentence("汐鷺曙", "濱津嶼浦", "港鎮")),
)
PEOPLE = (
    one_of(_sentence(("洛恩", "馬瑟", "費歐", "薇拉", "艾索"), "‧", ("貝克倫", "史戴拉", "葛林諾", "多蘭", "席維"))),
    one_of(_sentence("簡游范石姚", "亦允希韶", "帆謙葳甯")),
)
TRADES = (
    one_of("學徒 報童 郵差 木匠 裁縫 漁夫 礦工 車掌"),
    one_of("教授 館長 院長 主編 議員 製琴師 植物學家 測量師"),
)


# Facts. They are phrased so that they fit a subject of any category. ｜ separates alternatives.


@dataclass(frozen=True)
class Fact:
    told: str
    asked: str


@dataclass(frozen=True)
class FactPair:
    """Holds two facts of one kind and the functions that draw their answers."""

    kind: str
    stocks: tuple[Stock, Stock]
    facts: tuple[Fact, Fact]


PAIRS = (
    FactPair(
        "years",
        YEARS,
        (
            Fact("郵票在{it}發行｜郵票發行於{it}｜郵票是{it}發行的", "郵票在哪一年發行？｜郵票是哪一年發行的？"),
            Fact("電影在{it}上映｜電影上映於{it}｜電影是{it}上映的", "電影在哪一年上映？｜電影是哪一年上映的？"),
        ),
    ),
    FactPair(
        "places",
        PLACES,
        (
            Fact("石碑立在{it}｜石碑位於{it}｜石碑在{it}", "石碑立在哪裡？｜石碑位於何處？"),
            Fact("展館設在{it}｜展館位於{it}｜展館在{it}", "展館設在哪裡？｜展館位於何處？"),
        ),
    ),
    FactPair(
        "people",
        PEOPLE,
        (
            Fact("歌曲由{it}譜寫｜歌曲的作者是{it}｜歌曲出自{it}", "歌曲由誰譜寫？｜歌曲的作者是誰？"),
            Fact("畫像由{it}繪製｜畫像的作者是{it}｜畫像出自{it}", "畫像由誰繪製？｜畫像的作者是誰？"),
        ),
    ),
    FactPair(
        "professions",
        TRADES,
        (
            Fact("匾額由一名{it}題字｜匾額的題字者是一名{it}", "匾額由什麼人題字？｜匾額的題字者做什麼工作？"),
            Fact("傳記由一名{it}撰寫｜傳記的撰寫者是一名{it}", "傳記由什麼人撰寫？｜傳記的撰寫者做什麼工作？"),
        ),
    ),
)


# Subjects. A name is one character of FIRST and one of SECOND. These characters occur nowhere else, so a name always
# identifies its subject.

FIRST = "霜澄曜鳶翠沐緋璃昀筠"
SECOND = "嵐鳴瀾眠曦禾棠霖螢楓鯨弦"


@dataclass(frozen=True)
class Category:
    names: str
    openings: str
    remarks: str


PERSON = Category(
    "林{name}｜陳{name}",
    "{name}是地方志裡的人物｜鄉里的長輩常說起{name}",
    "寫給朋友的信多半散失｜終身只肯簽名，不用印章",
)
LANDSCAPE = Category(
    "{name}山｜{name}湖", "{name}以清晨的霧氣聞名｜健行的人偏愛{name}", "雨後的小徑相當溼滑｜夜裡看得見滿天星斗"
)
NOVEL = Category(
    "《{name}記》｜《{name}傳》",
    "{name}是一部講述返鄉的小說｜讀書會常選{name}來討論",
    "結尾留下了不少懸念｜主角從頭到尾沒有名字",
)
COMPANY = Category(
    "{name}公司｜{name}商行",
    "{name}原本只是家庭工廠｜說起老字號，首先想到{name}",
    "每週三下午全體停工｜員工餐廳對街坊開放",
)
SCHOOL = Category(
    "{name}國小｜{name}國中",
    "{name}的圍牆外是一片稻田｜附近的孩子大多就讀{name}",
    "下課鐘聲由校友譜曲｜圖書室在週末照常開放",
)
FESTIVAL = Category(
    "{name}節｜{name}祭", "{name}是沿海村落的盛事｜外地人專程為{name}而來", "遊行的隊伍繞行聚落｜參加的人都戴草帽"
)
BRIDGE = Category(
    "{name}橋｜{name}堤", "{name}是城裡最常入鏡的建築｜旅客總愛在{name}前合影", "欄杆上刻著小獅子｜地震之後仍然完好"
)
PLANT = Category(
    "{name}蘭｜{name}蕨", "{name}只長在背風的石縫裡｜採標本的人珍視{name}", "葉子揉碎後有清香｜種子靠螞蟻搬運"
)

CATEGORIES = (PERSON, LANDSCAPE, NOVEL, COMPANY, SCHOOL, FESTIVAL, BRIDGE, PLANT)

# A few paragraphs have one of these clauses. Their characters reveal mistakes in character offsets and tokenizers.
ODDITIES = (
    "英文資料寫作「Velanto」｜舊名裡有個「𠮷」字｜紀念章上印著🌸（限量）｜石碑上刻著「龘」字｜門票背面印著No.7"
    "｜有人戲稱為“Mr. Q”｜網友留言：「好美…🏔️」｜檔案編號是Ｂ－７"
)


# Build paragraphs and rows from the tables above.


@dataclass(frozen=True)
class Paragraph:
    category: int
    text: str
    asked: tuple[tuple[str, str], ...]  # pairs (question, answer)


def _one(rng: Random, alternatives: str, **words: str) -> str:
    return _pick(rng, alternatives.split("｜")).format(**words)


def _subjects(rng: Random) -> Iterator[tuple[int, str]]:
    """Yield (category, name) pairs; categories alternate and no name repeats."""
    words = [_in_random_order(rng, _sentence(FIRST, SECOND)) for _ in CATEGORIES]
    for turn in zip(*words, strict=True):
        for category, word in enumerate(turn):
            yield category, _one(rng, CATEGORIES[category].names, name=word)


def _draw_paragraph(rng: Random, category: int, name: str) -> Paragraph:
    """Draw a paragraph until its length is in range and each answer occurs in it exactly once."""
    while True:
        paragraph = _draft(rng, category, name)
        once = all(paragraph.text.count(answer) == 1 for _, answer in paragraph.asked)
        if once and len(paragraph.text) in LENGTHS:
            return paragraph


def _draft(rng: Random, category: int, name: str) -> Paragraph:
    table = CATEGORIES[category]
    told, asked = [], []
    for pair in _distinct(rng, PAIRS, 2):
        for stock, fact in zip(pair.stocks, pair.facts, strict=True):
            answer = stock(rng)
            told.append(_one(rng, fact.told, it=answer))
            asked.append((f"{name}的{_one(rng, fact.asked)}", answer))
    facts = _in_random_order(rng, told)
    cut = _between(rng, 1, 3)
    remark = _one(rng, ODDITIES if rng.random() < 0.15 else table.remarks)
    sentences = [f"{name}的{_prose(rng, facts[:cut])}", f"{name}的{_prose(rng, facts[cut:])}", f"{remark}。"]
    opening = _one(rng, table.openings, name=name)
    return Paragraph(category, f"{opening}。" + "".join(_in_random_order(rng, sentences)), tuple(asked))


def _prose(rng: Random, clauses: Sequence[str]) -> str:
    return "".join(clause + _pick(rng, "，，。；") for clause in clauses[:-1]) + clauses[-1] + "。"


def _split_rows(rng: Random, split: str, batch: Sequence[Paragraph], offset: int) -> list[Row]:
    """Return a split's rows in random order; its paragraphs start at index `offset` of the context."""
    asked = [(index, *pair) for index, paragraph in enumerate(batch) for pair in paragraph.asked]
    return [
        {
            "id": f"sample-{split}-{number:05d}",
            "question": question,
            "paragraphs": [offset + choice for choice in _candidates(rng, batch, index)],
            "relevant": offset + index,
            "answer": {"text": answer, "start": batch[index].text.index(answer)},
        }
        for number, (index, question, answer) in enumerate(_in_random_order(rng, asked), start=1)
    ]


def _candidates(rng: Random, batch: Sequence[Paragraph], relevant: int) -> list[int]:
    """Return the relevant paragraph, another one of its category and two of other categories, in random order."""
    near = _other_paragraphs(rng, batch, relevant, 1, same=True)
    far = _other_paragraphs(rng, batch, relevant, 2, same=False)
    return _in_random_order(rng, [relevant, *near, *far])


def _other_paragraphs(rng: Random, batch: Sequence[Paragraph], relevant: int, count: int, *, same: bool) -> list[int]:
    category = batch[relevant].category
    pool = [i for i, one in enumerate(batch) if i != relevant and (one.category == category) == same]
    return _distinct(rng, pool, count)
