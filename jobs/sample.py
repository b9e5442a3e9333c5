"""The built-in data set `sample`: Traditional Chinese paragraphs about invented subjects, as rows.

Synthetic and regular: it shows that the machinery works and that good settings beat bad ones, and is
no measure of a model's quality on real questions. A paragraph has one subject and tells facts in
pairs of a kind (two years, two places), so that only the question's words decide between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from random import Random
from typing import Any, TypeVar

SIZES = {"train": 432, "valid": 88, "test": 88}  # paragraphs, each with four questions
LENGTHS = range(70, 141)  # characters of a paragraph

Row = dict[str, Any]
Stock = Callable[[Random], str]
T = TypeVar("T")


def files(seed: int = 0) -> dict[str, Any]:
    """What the files of the assignment hold: `context` (list[str]) and the rows of the three splits.

    >>> sample = files()
    >>> row = sample["valid"][0]
    >>> start, text = row["answer"]["start"], row["answer"]["text"]
    >>> sample["context"][row["relevant"]][start : start + len(text)] == text
    True

    The same seed gives the same files everywhere. Test rows carry their labels too.
    """
    rng = Random(seed)
    subjects = _subjects(rng)
    context: list[str] = []
    data: dict[str, Any] = {"context": context}
    for split, size in SIZES.items():
        batch = [_paragraph(rng, *subject) for subject in islice(subjects, size)]
        data[split] = _rows(rng, split, batch, len(context))
        context.extend(paragraph.text for paragraph in batch)
    return data


# Chance. Of Random's methods only `random()` is promised to give the same in every version of Python.


def _between(rng: Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _pick(rng: Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def _shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    return sorted(items, key=lambda _: rng.random())


def _distinct(rng: Random, options: Sequence[T], count: int) -> list[T]:
    chosen: list[T] = []
    while len(chosen) < count:
        option = _pick(rng, options)
        if option not in chosen:
            chosen.append(option)
    return chosen


# Answers. The two of a pair come from two stocks, as lives and places have it: villages and harbours, trades
# and titles. Without that, a small model with random weights does not tell the two apart within minutes.

CHINESE = "〇一二三四五六七八九"
FULL_WIDTH = str.maketrans("0123456789,", "０１２３４５６７８９，")


def _joined(*parts: Sequence[str]) -> list[str]:
    return ["".join(choice) for choice in product(*parts)]


def _tens(number: int) -> str:
    """76 as 七十六; for 1 to 99."""
    tens, ones = divmod(number, 10)
    return (CHINESE[tens] if tens > 1 else "") + ("十" if tens else "") + (CHINESE[ones] if ones else "")


def _arabic(rng: Random, number: int) -> str:
    """1250 as 1,250, now and then as １，２５０."""
    text = f"{number:,}"
    return text.translate(FULL_WIDTH) if rng.random() < 0.1 else text


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


def few(low: int, high: int, unit: str) -> Stock:
    """In Chinese numerals, as running text has small numbers."""
    return lambda rng: f"{_tens(_between(rng, low, high))}{unit}"


def many(low: int, high: int, unit: str) -> Stock:
    return lambda rng: f"{_arabic(rng, _between(rng, low, high))}{unit}"


def day(first_month: int, last_month: int) -> Stock:
    return lambda rng: f"{_between(rng, first_month, last_month)}月{_between(rng, 1, 28)}日"


def one_of(options: str | Sequence[str]) -> Stock:
    options = options.split() if isinstance(options, str) else options
    return lambda rng: _pick(rng, options)


YEARS = (early_year, late_year)
PLACES = (
    one_of(_joined("霧嵐硯岑葭", "澤崁湳坪墘岬", "村鄉")),
    one_of(_joined("汐朔曦鷺瀾", "濱津汀嶼浦灣", "港鎮")),
)
PEOPLE = (
    one_of(_joined(("洛恩", "馬瑟", "費歐", "薇拉", "艾索"), "‧", ("貝克倫", "史戴拉", "葛林諾", "多蘭", "席維"))),
    one_of(_joined("簡游范方石姚柯溫", "亦允希景韶", "川帆謙葳朗甯芃")),
)


# What is told. Alternatives are parted by ｜; {when} is one of THEN in a first fact, of NOW in a second.

THEN = ("早年", "當初", "起初")
NOW = ("後來", "日後", "其後")


@dataclass(frozen=True)
class Pair:
    """Two facts of one kind: how each is told, and how it is asked for."""

    stocks: tuple[Stock, Stock]
    told: str
    asked: str
    other_told: str
    other_asked: str


@dataclass(frozen=True)
class Category:
    names: tuple[Sequence[str], ...]  # a name is one of each, joined
    openings: str
    remarks: str
    pairs: tuple[Pair, ...]


PERSON = Category(
    names=("林陳黃許蔡鄭謝郭洪曾", "若維知以承語向思宜書", "嵐昀澄岑禾棠晞霖玥筠"),
    openings="{name}是地方志裡常被提起的人物｜{name}的生平散見於舊筆記｜鄉里的長輩至今會說起{name}",
    remarks="為人寡言而守信｜閒暇時喜歡沿著河岸散步｜寫給朋友的信多半已經散失｜終身不用印章，只肯簽名",
    pairs=(
        Pair(
            YEARS,
            "{when}在{it}離家｜{when}離家是在{it}",
            "{name}{when}在哪一年離家？｜{name}{when}離家是在哪一年？",
            "{when}在{it}返鄉｜{when}返鄉是在{it}",
            "{name}{when}在哪一年返鄉？｜{name}{when}返鄉是在哪一年？",
        ),
        Pair(
            PLACES,
            "{when}在{it}讀書｜{when}住在{it}",
            "{name}{when}在哪裡讀書？｜{name}{when}住在哪裡？",
            "{when}在{it}定居｜{when}搬到{it}",
            "{name}{when}在哪裡定居？｜{name}{when}搬到哪裡？",
        ),
        Pair(
            (
                one_of("學徒 報童 郵差 木匠 裁縫 漁夫 礦工 車掌"),
                one_of("教授 館長 院長 主編 議員 製琴師 植物學家 測量師"),
            ),
            "{when}的工作是{it}｜{when}以{it}為業",
            "{name}{when}的工作是什麼？｜{name}{when}以什麼為業？",
            "{when}改行做{it}｜{when}的身分是{it}",
            "{name}{when}改行做什麼？｜{name}{when}的身分是什麼？",
        ),
    ),
)

LANDSCAPE = Category(
    names=("霜螢鷺硯鳶鹿楓鯨", "鳴眠望語隱影", ("山", "湖", "溪", "潭")),
    openings="{name}以清晨的霧氣聞名｜{name}是健行的人偏愛的去處｜在老地圖上，{name}只是一個小黑點",
    remarks="雨後的小徑相當溼滑｜夜裡可以看見滿天星斗｜假日常有學生來這裡寫生｜沿途沒有商店，得自備飲水",
    pairs=(
        Pair(
            PLACES,
            "{when}歸{it}管轄｜{when}屬於{it}",
            "{name}{when}歸哪裡管轄？｜{name}{when}屬於哪裡？",
            "{when}劃歸{it}｜{when}改屬{it}",
            "{name}{when}劃歸哪裡？｜{name}{when}改屬哪裡？",
        ),
        Pair(
            (
                one_of("八色鳥 黃鸝 翠鳥 家燕 夜鷺 綬帶鳥 蜂鷹"),
                one_of("小水鴨 黑面琵鷺 紅尾伯勞 鸕鶿 藍磯鶇 金背鳩 黃尾鴝"),
            ),
            "{when}多的是{it}｜{when}常見的鳥是{it}",
            "{name}{when}多的是什麼鳥？｜{name}{when}常見的鳥是什麼？",
            "{when}飛來的是{it}｜{when}出現的鳥是{it}",
            "{name}{when}飛來的是什麼鳥？｜{name}{when}出現的鳥是什麼？",
        ),
        Pair(
            (few(11, 79, "公里"), many(110, 480, "公里")),
            "{when}步道只有{it}｜{when}修築的步道長{it}",
            "{name}{when}步道有多少公里？｜{name}{when}修築的步道長多少？",
            "{when}步道加長到{it}｜{when}相連的步道長{it}",
            "{name}{when}步道加長到多少公里？｜{name}{when}相連的步道長多少？",
        ),
    ),
)

NOVEL = Category(
    names=(
        "《",
        ("遲來的", "霧裡的", "無人的", "借來的", "沉默的", "發光的", "倒走的", "第七座", "紙做的", "最後的"),
        ("燈塔", "郵差", "雨季", "月臺", "鯨魚", "鐘樓", "果園", "信箱", "渡船", "琴房", "雪人", "風箏"),
        "》",
    ),
    openings="{name}是一部講述離家與返鄉的小說｜{name}常被讀書會選為討論的作品｜許多讀者在中學時就讀過{name}",
    remarks="結尾留下了不少懸念｜書評多半稱讚其中的對白｜章節的標題都取自歌謠｜主角從頭到尾沒有名字",
    pairs=(
        Pair(
            YEARS,
            "{when}在{it}出版｜{when}出版是在{it}",
            "{name}{when}在哪一年出版？｜{name}{when}出版是在哪一年？",
            "{when}在{it}拍成電影｜{when}搬上銀幕是在{it}",
            "{name}{when}在哪一年拍成電影？｜{name}{when}搬上銀幕是在哪一年？",
        ),
        Pair(
            PEOPLE,
            "{when}由{it}執筆｜{when}寫作的人是{it}",
            "{name}{when}由誰執筆？｜{name}{when}寫作的人是誰？",
            "{when}由{it}翻譯｜{when}改寫的人是{it}",
            "{name}{when}由誰翻譯？｜{name}{when}改寫的人是誰？",
        ),
        Pair(
            (few(11, 79, "頁"), many(120, 990, "頁")),
            "{when}的草稿有{it}｜{when}只寫了{it}",
            "{name}{when}的草稿有多少頁？｜{name}{when}只寫了多少頁？",
            "{when}的定稿有{it}｜{when}印成書厚達{it}",
            "{name}{when}的定稿有多少頁？｜{name}{when}印成書厚達多少頁？",
        ),
    ),
)

COMPANY = Category(
    names=("晨曜禾拓沐霽", "石域光舟川", ("電機", "食品", "紡織", "文具", "造船"), ("公司",)),
    openings="{name}原本只是巷子裡的家庭工廠｜{name}是許多人求職的第一志願｜說起老字號，不少人會先想到{name}",
    remarks="每週三下午全體停工開會｜從來不在電視上做廣告｜員工餐廳也對街坊開放｜倉庫的外牆畫滿了壁畫",
    pairs=(
        Pair(
            YEARS,
            "{when}在{it}創立｜{when}登記成立是在{it}",
            "{name}{when}在哪一年創立？｜{name}{when}登記成立是在哪一年？",
            "{when}在{it}上市｜{when}公開上市是在{it}",
            "{name}{when}在哪一年上市？｜{name}{when}公開上市是在哪一年？",
        ),
        Pair(
            PLACES,
            "{when}設在{it}｜{when}在{it}創業",
            "{name}{when}設在哪裡？｜{name}{when}在哪裡創業？",
            "{when}總部在{it}｜{when}遷到{it}",
            "{name}{when}總部在哪裡？｜{name}{when}遷到哪裡？",
        ),
        Pair(
            (
                one_of("豆腐乳 帆布袋 鋼筆 雨傘 棉襪 油燈 草蓆 木屐"),
                one_of("望遠鏡 保溫瓶 感測器 電風扇 除溼機 電動車 投影機"),
            ),
            "{when}賣的是{it}｜{when}靠{it}起家",
            "{name}{when}賣的是什麼？｜{name}{when}靠什麼起家？",
            "{when}主打{it}｜{when}改為生產{it}",
            "{name}{when}主打什麼？｜{name}{when}改為生產什麼？",
        ),
    ),
)

SCHOOL = Category(
    names=("明樸誠樂毓敦", "嶼汀螢田岡朗", ("國小", "國中", "高中", "學院")),
    openings="{name}的圍牆外就是一整片稻田｜{name}以合唱團在縣內出名｜附近的孩子大多就讀{name}",
    remarks="下課鐘聲是校友譜寫的曲子｜每年春天舉辦拔河比賽｜圖書室在週末照常開放｜午餐的青菜由師生自己種",
    pairs=(
        Pair(
            PEOPLE,
            "{when}的校長是{it}｜{when}由{it}創辦",
            "{name}{when}的校長是誰？｜{name}{when}由誰創辦？",
            "{when}的校長是{it}｜{when}由{it}主持校務",
            "{name}{when}的校長是誰？｜{name}{when}由誰主持校務？",
        ),
        Pair(
            (
                one_of("樟樹 鳳凰木 榕樹 苦楝 茄苳 九芎 黑板樹"),
                one_of("杜鵑花 茉莉花 百合 繡球花 扶桑花 月桃 薔薇"),
            ),
            "{when}種的是{it}｜{when}校園裡到處是{it}",
            "{name}{when}種的是什麼？｜{name}{when}校園裡到處是什麼？",
            "{when}改種{it}｜{when}操場邊多了{it}",
            "{name}{when}改種什麼？｜{name}{when}操場邊多了什麼？",
        ),
        Pair(
            (few(12, 88, "人"), many(180, 2400, "人")),
            "{when}學生只有{it}｜{when}招收{it}",
            "{name}{when}學生有多少人？｜{name}{when}招收多少人？",
            "{when}學生多達{it}｜{when}就學的有{it}",
            "{name}{when}學生多達多少人？｜{name}{when}就學的有多少人？",
        ),
    ),
)

FESTIVAL = Category(
    names=(("燈河", "稻浪", "海風", "星火", "雲瀑"), "鼓舟謠燭紙鈴", ("節", "祭", "季")),
    openings="{name}是沿海村落一年一度的盛事｜{name}的由來有好幾種說法｜外地人多半是為了{name}而來",
    remarks="遊行的隊伍繞行整個聚落｜參加的人都要戴上草帽｜壓軸的煙火由居民集資｜雨天一律照常舉行",
    pairs=(
        Pair(
            (day(2, 5), day(8, 9)),
            "{when}在{it}舉行｜{when}的日子是{it}",
            "{name}{when}在哪一天舉行？｜{name}{when}的日子是哪一天？",
            "{when}改到{it}舉行｜{when}的日子是{it}",
            "{name}{when}改到哪一天舉行？｜{name}{when}的日子是哪一天？",
        ),
        Pair(
            (
                one_of("米糕 芋圓 烤玉米 花生糖 紅龜粿 潤餅 麻糬"),
                one_of("魚丸湯 綠豆湯 薑母茶 鹹粥 酸梅湯 杏仁茶 蚵仔麵線"),
            ),
            "{when}大家吃的是{it}｜{when}的應景食物是{it}",
            "{name}{when}大家吃的是什麼？｜{name}{when}的應景食物是什麼？",
            "{when}改吃{it}｜{when}流行的點心是{it}",
            "{name}{when}改吃什麼？｜{name}{when}流行的點心是什麼？",
        ),
        Pair(
            PLACES,
            "{when}辦在{it}｜{when}是{it}的習俗",
            "{name}{when}辦在哪裡？｜{name}{when}是哪裡的習俗？",
            "{when}改到{it}舉辦｜{when}會場設在{it}",
            "{name}{when}改到哪裡舉辦？｜{name}{when}會場設在哪裡？",
        ),
    ),
)

BRIDGE = Category(
    names=("虹棲霽緋澄翠", "雁簷波鐘棧", ("橋", "堤", "廊", "壩")),
    openings="{name}是城裡最常入鏡的建築｜{name}的影子在黃昏時拉得很長｜到訪的旅客總愛在{name}前合影",
    remarks="欄杆上刻著成排的小獅子｜每逢颱風便暫停開放｜入夜後會點上黃色的燈｜地震之後仍然完好",
    pairs=(
        Pair(
            YEARS,
            "{when}在{it}落成｜{when}完工是在{it}",
            "{name}{when}在哪一年落成？｜{name}{when}完工是在哪一年？",
            "{when}在{it}整修｜{when}翻新是在{it}",
            "{name}{when}在哪一年整修？｜{name}{when}翻新是在哪一年？",
        ),
        Pair(
            PEOPLE,
            "{when}由{it}設計｜{when}出資的人是{it}",
            "{name}{when}由誰設計？｜{name}{when}出資的人是誰？",
            "{when}由{it}改建｜{when}修復的人是{it}",
            "{name}{when}由誰改建？｜{name}{when}修復的人是誰？",
        ),
        Pair(
            (few(11, 88, "公尺"), many(110, 2600, "公尺")),
            "{when}只有{it}長｜{when}的長度是{it}",
            "{name}{when}有多長？｜{name}{when}的長度是多少公尺？",
            "{when}延長為{it}｜{when}加長到{it}",
            "{name}{when}延長為多少公尺？｜{name}{when}加長到多少公尺？",
        ),
    ),
)

PLANT = Category(
    names=("銀紫露霜雲焰", "鈴翅鬚絨斑", ("蘭", "蕨", "藤", "菊")),
    openings="{name}只長在背風的石縫裡｜{name}是花市裡少見的品種｜採集標本的人把{name}視為珍寶",
    remarks="葉子揉碎後有淡淡的清香｜不耐移植，種在盆裡多半枯死｜民間拿來煮水退火｜種子靠螞蟻搬運",
    pairs=(
        Pair(
            (
                one_of("鵝黃色 粉白色 淡紫色 桃紅色 象牙色 天藍色"),
                one_of("絳紅色 墨綠色 橙色 銀灰色 琥珀色 深褐色"),
            ),
            "{when}開的花是{it}｜{when}花瓣呈{it}",
            "{name}{when}開的花是什麼顏色？｜{name}{when}花瓣呈什麼顏色？",
            "{when}轉為{it}｜{when}花瓣變成{it}",
            "{name}{when}轉為什麼顏色？｜{name}{when}花瓣變成什麼顏色？",
        ),
        Pair(
            PLACES,
            "{when}在{it}發現｜{when}的標本採自{it}",
            "{name}{when}在哪裡發現？｜{name}{when}的標本採自哪裡？",
            "{when}移到{it}培育｜{when}只見於{it}",
            "{name}{when}移到哪裡培育？｜{name}{when}只見於哪裡？",
        ),
        Pair(
            (few(2, 19, "公分"), many(120, 240, "公分")),
            "{when}只有{it}高｜{when}的高度是{it}",
            "{name}{when}有多高？｜{name}{when}的高度是多少公分？",
            "{when}長到{it}高｜{when}可以長成{it}",
            "{name}{when}長到多高？｜{name}{when}可以長成多少公分？",
        ),
    ),
)

CATEGORIES = (PERSON, LANDSCAPE, NOVEL, COMPANY, SCHOOL, FESTIVAL, BRIDGE, PLANT)

# What trips up careless offsets and tokenizers; a few paragraphs have one of these clauses.
ODDITIES = (
    "英文資料寫作「Velanto」｜舊名裡有個「𠮷」字｜紀念章上印著🌸（限量）｜石碑上刻著「龘」字｜門票背面印著No.7"
    "｜有人戲稱為“Mr. Q”｜網友留言：「好美…🏔️」｜檔案編號是Ｂ－７"
)


# From the tables to paragraphs and rows


@dataclass(frozen=True)
class Paragraph:
    category: int
    text: str
    asked: tuple[tuple[str, str], ...]  # (question, answer)


def _one(rng: Random, alternatives: str, **words: str) -> str:
    return _pick(rng, alternatives.split("｜")).format(**words)


def _subjects(rng: Random) -> Iterator[tuple[int, str]]:
    """(category, name), the categories in turn, no name twice."""
    names = [_shuffled(rng, _joined(*category.names)) for category in CATEGORIES]
    return chain.from_iterable(enumerate(turn) for turn in zip(*names, strict=False))


def _paragraph(rng: Random, category: int, name: str) -> Paragraph:
    """Drawn again until its length is right and every answer stands in it exactly once."""
    while True:
        paragraph = _draft(rng, category, name)
        once = all(paragraph.text.count(answer) == 1 for _, answer in paragraph.asked)
        if once and len(paragraph.text) in LENGTHS:
            return paragraph


def _draft(rng: Random, category: int, name: str) -> Paragraph:
    table = CATEGORIES[category]
    clauses = _distinct(rng, table.remarks.split("｜"), 2)
    asked = []
    for pair in _distinct(rng, table.pairs, 2):
        for when, stock, told, question in (
            (THEN, pair.stocks[0], pair.told, pair.asked),
            (NOW, pair.stocks[1], pair.other_told, pair.other_asked),
        ):
            answer = stock(rng)
            clauses.append(_one(rng, told, when=_pick(rng, when), it=answer))
            asked.append((_one(rng, question, when=_pick(rng, when), name=name), answer))
    if rng.random() < 0.15:
        clauses.append(_one(rng, ODDITIES))
    opening = _one(rng, table.openings, name=name)
    return Paragraph(category, _prose(rng, [opening, *_shuffled(rng, clauses)]), tuple(asked))


def _prose(rng: Random, clauses: Sequence[str]) -> str:
    return "".join(clause + _pick(rng, "，，。；") for clause in clauses[:-1]) + clauses[-1] + "。"


def _rows(rng: Random, split: str, batch: Sequence[Paragraph], offset: int) -> list[Row]:
    """Rows of a split whose paragraphs start at `offset` in the context, in random order."""
    asked = [(index, *pair) for index, paragraph in enumerate(batch) for pair in paragraph.asked]
    return [
        {
            "id": f"sample-{split}-{number:05d}",
            "question": question,
            "paragraphs": [offset + choice for choice in _choices(rng, batch, index)],
            "relevant": offset + index,
            "answer": {"text": answer, "start": batch[index].text.index(answer)},
        }
        for number, (index, question, answer) in enumerate(_shuffled(rng, asked), start=1)
    ]


def _choices(rng: Random, batch: Sequence[Paragraph], relevant: int) -> list[int]:
    """The relevant paragraph, one or two of its category and others, in random order."""
    near = _others(rng, batch, relevant, _between(rng, 1, 2), same=True)
    far = _others(rng, batch, relevant, 3 - len(near), same=False)
    return _shuffled(rng, [relevant, *near, *far])


def _others(rng: Random, batch: Sequence[Paragraph], relevant: int, count: int, *, same: bool) -> list[int]:
    category = batch[relevant].category
    pool = [i for i, one in enumerate(batch) if i != relevant and (one.category == category) == same]
    return _distinct(rng, pool, count)
