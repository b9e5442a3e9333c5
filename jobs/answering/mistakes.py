"""Sort a trial's answers into kinds of mistakes. Each answer has exactly one kind, so the counts sum to the total."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jobs.dataset.data import Data, Question, refuse
from jobs.metrics import best_score

Kind = Literal["right paragraph", "exact", "elsewhere", "boundary", "overlap", "disjoint", "wrong paragraph", "empty"]
AnswerType = Literal["number", "date", "name", "other"]

# The order is that of the rows in the tables. The first three kinds count as right.
KINDS: dict[Kind, str] = {
    "right paragraph": "the relevant paragraph was picked",
    "exact": "a right answer, at the labelled place",
    "elsewhere": "a right answer, at another place; it counts as right",
    "boundary": "one of the two contains the other: n characters too many or too few",
    "overlap": "both have characters that the other lacks, and some in common",
    "disjoint": "the right paragraph, no character in common",
    "wrong paragraph": "another paragraph than the relevant one",
    "empty": "no answer, or white space alone",
}
SELECTOR_KINDS: tuple[Kind, ...] = ("right paragraph", "wrong paragraph")
READER_KINDS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "right paragraph")
RIGHT: frozenset[Kind] = frozenset({"right paragraph", "exact", "elsewhere"})
TYPES: tuple[AnswerType, ...] = ("number", "date", "name", "other")
LENGTHS = {"1-2": 2, "3-4": 4, "5-8": 8, "9-16": 16, "17+": None}


class Span(NamedTuple):
    """Holds a span of characters in a paragraph, from `first` to `last`, exclusive."""

    first: int
    last: int


@dataclass(frozen=True)
class Verdict:
    """Holds one question with the kind of its answer.

    wanted, given  the labelled answer and the trial's answer; for a selector, the paragraphs' texts
    extra          for a `boundary`: surplus characters, negative if characters are missing; otherwise 0
    type, length   of the labelled answer; see `answer_type` and `length_class`
    """

    id: str
    question: str
    wanted: str
    given: str
    kind: Kind
    extra: int
    type: AnswerType
    length: str

    @property
    def right(self) -> bool:
        return self.kind in RIGHT


def verdicts(
    data: Data,
    predictions: Sequence[Mapping[str, Any]],
    references: Mapping[str, Sequence[str]],
    profile: str = "strict",
) -> list[Verdict]:
    """Return a verdict for each validation question, from predictions in the same order.

    >>> data = read_data("sample")
    >>> [verdict.kind for verdict in verdicts(data, trial.predictions(), references(data))]
    ['exact', 'boundary', …]

    `references` has all right answers by question id. A reader's answer is right if `best_score` counts it as an exact
    match under `profile`; a selector's, if it picked the relevant paragraph. A prediction without `paragraph` refers to
    the relevant one. Raises DataError when the predictions are of other questions.
    """
    if [row.id for row in data.valid] != [prediction.get("id") for prediction in predictions]:
        refuse([f"{data.location}: its validation questions are not those the trial answered; give it that data again"])
    return [
        _classify(data, row, prediction, references[row.id], profile)
        for row, prediction in zip(data.valid, predictions, strict=True)
    ]


def _classify(
    data: Data, row: Question, prediction: Mapping[str, Any], references: Sequence[str], profile: str
) -> Verdict:
    relevant, answer, start = row.relevant or 0, row.answer or "", row.start or 0
    paragraph, kind, extra = prediction.get("paragraph", relevant), "right paragraph", 0
    if "answer" not in prediction:
        wanted, given = data.paragraphs[relevant], data.paragraphs[paragraph]
        kind = "right paragraph" if paragraph == relevant else "wrong paragraph"
    else:
        wanted, given = answer, prediction["answer"]
        counts = best_score(given, references, profile).em == 1.0
        span = Span(prediction["start"], prediction["start"] + len(given))
        label = Span(start, start + len(answer))
        places = [place for one in (answer, *references) for place in occurrences(one, data.paragraphs[relevant])]
        kind, extra = sort_answer(given, span if paragraph == relevant else None, label, places, counts)
    return Verdict(row.id, row.question, wanted, given, kind, extra, answer_type(answer), length_class(answer))  # type: ignore[arg-type]


def sort_answer(given: str, span: Span | None, label: Span, places: Sequence[Span], counts: bool) -> tuple[Kind, int]:
    """Return the kind of a reader's answer, and the surplus or missing characters of a `boundary`.

    span    the answer's place in the relevant paragraph; None if it is in another paragraph
    label   the labelled answer's place
    places  all places of right answers in the relevant paragraph. The answer is compared with the overlapping place
            that has the nearest borders
    counts  True if the text is a right answer
    """
    if counts:
        return ("exact" if span and shared(span, label) else "elsewhere"), 0
    if not given.strip():
        return "empty", 0
    if span is None:
        return "wrong paragraph", 0
    nearest = min([label, *places], key=lambda place: (not shared(span, place), distance(span, place)))
    common = shared(span, nearest)
    if not common:
        return "disjoint", 0
    longer, shorter = span.last - span.first - common, nearest.last - nearest.first - common
    return ("overlap", 0) if longer and shorter else ("boundary", longer - shorter)


def shared(left: Span, right: Span) -> int:
    """Return the number of characters that two spans have in common."""
    return max(0, min(left.last, right.last) - max(left.first, right.first))


def distance(left: Span, right: Span) -> int:
    """Return the distance between the starts plus the distance between the ends of two spans, in characters."""
    return abs(left.first - right.first) + abs(left.last - right.last)


def occurrences(text: str, paragraph: str) -> Iterator[Span]:
    """Yield every place of `text` in `paragraph`, including overlapping ones."""
    at = paragraph.find(text) if text else -1
    while at >= 0:
        yield Span(at, at + len(text))
        at = paragraph.find(text, at + 1)


def length_class(answer: str) -> str:
    """Return the class in LENGTHS of an answer's length in characters (code points)."""
    return next(name for name, most in LENGTHS.items() if most is None or len(answer) <= most)


# These expressions guess an answer's type from its form alone, without the question. 「三個」 counts as a number
# because 個 is a measure word. A person's name is recognised by its surname and length.
_ARABIC = r"[0-9][0-9,]*+(?:\.[0-9]++)?"  # possessive quantifiers: backtracking would make long texts slow
_CHINESE = "[〇零○一二三四五六七八九十百千萬万億亿兆廿卅兩两半]"
_ANY = rf"(?:{_ARABIC}|{_CHINESE}++)"
_ABOUT = "(?:約|大約|近|超過|至少|最多|共|逾|不到|第|南緯|北緯|東經|西經)?"
_SINCE = "(?:約|大約|於|在|自|從)?"
_ERA = "(?:西元|公元|民國|民国|前|昭和|明治|大正|平成|令和|[\u4e00-\u9fff]{2,4}(?=(?:元|" + _CHINESE + "+)年))"
_YEAR = rf"(?:{_ERA}+(?:元|{_ANY})年?|[0-9]{{3,4}}年?|[〇零○一二三四五六七八九]{{3,4}}年)"
_DAY = rf"(?:{_ANY}月份?(?:底|初|中旬|上旬|下旬)?)?(?:{_ANY}[日號号])"
_MONTH = rf"{_ANY}月份?(?:底|初|中旬|上旬|下旬)?"
_WHEN = (
    "(?:代|上半年|下半年|年底|[底初末]|中期|初期|末期|前期|後期|后期|[前後后間间]|夏天|冬天|春天|秋天|[春夏秋冬]季?"
    "|以[前後来來]){0,3}"
)
_MOMENT = (
    rf"{_SINCE}(?:{_YEAR}{_WHEN}(?:{_DAY}|{_MONTH})?|{_DAY}|{_MONTH}"
    rf"|(?:前|[西公]元前?)?{_ANY}世[紀纪](?:{_ANY}年代)?|{_ANY}年代)的?{_WHEN}"
)
_DATE = re.compile(rf"{_MOMENT}(?:[至到\-~–—]{_MOMENT})?|[0-9]{{2,4}}[-/.][0-9]{{1,2}}[-/.][0-9]{{1,4}}")
_MEASURE = (
    "(?:個|个|名|位|人|年|月|日|天|週|周|星期|小時|小时|時|时|分鐘|分钟|分|秒|歲|岁|次|種|种|座|條|条|所|隻|只|台|臺|輛|辆|艘|架"
    "|元|美元|日圓|英鎊|歐元|公里|公尺|公分|公釐|公厘|毫米|公頃|公斤|公噸|公克|噸|吨|克|米|尺|吋|呎|英里|英尺|海里|平方|立方|倍|度|成|層|层|集|部|本"
    "|篇|章|屆|届|票|家|間|间|村|鄉|镇|鎮|區|县|縣|省|里|戶|户|棟|株|頭|头|件|項|项|支|枝|張|张|場|场|代|等|級|级|號|号|任|隊|队|軍|师|師|團"
    "|字|句|首|國|国|步|瓦|伏特|赫茲|億|萬|餘|多|幾|以上|以下|以內|左右|之|分之)"
)
_NUMBER = re.compile(
    rf"{_ABOUT}[+-]?(?:百分之)?(?:{_ANY}[多餘余幾]?)++(?:[a-z%°℃‰/²³]+|{_MEASURE}{{1,4}}(?:{_ANY}{_MEASURE}{{0,3}}){{0,4}})?"
    rf"(?:[至到\-~–—/:分之]+{_ANY}(?:[a-z%°℃‰/²³]+|{_MEASURE}{{1,4}})?)?",
    re.IGNORECASE,
)
_SURNAME = (
    "[王李張张劉刘陳陈楊杨黃黄趙赵吳吴周徐孫孙馬马朱胡郭何高林羅罗鄭郑梁謝谢宋唐許许韓韩馮冯鄧邓曹彭曾蕭萧田董潘袁蔡蔣蒋余于"
    "杜葉叶程魏蘇苏呂吕丁任盧卢姚沈鍾钟姜崔譚谭陸陆汪范廖石金韋韦賈贾夏傅鄒邹熊白孟秦邱侯江尹薛閻阎段雷龍龙史陶賀贺顧顾毛郝龔龚邵]"
)
_PLACE = (
    "[省市縣县鄉乡鎮镇區区村里路街道橋桥山河江湖海島岛州國国城宮宫寺廟庙塔站港灣湾洲]"
    "|大學|大学|學院|学院|中學|小學|公司|集團|集团|銀行|银行|醫院|医院|帝國|王國|共和國|政府|委員會|協會|博物館|圖書館|機場|车站|車站"
    "|條約|条约|事件|戰爭|战争|大戰|大战|時代|时代|王朝"
    "|人|黨|党|族|教|派|世|隊|队|軍|军|王|帝|公|侯|獎|奖"
)
_NAME = re.compile(
    r"[《〈「『【].+[》〉」』】]"  # titles
    r"|.*[\u4e00-\u9fff][·・‧•][\u4e00-\u9fff].*"  # transcribed names; NFKC does not unify these dots
    r"|[A-Z][\w'’.&-]*(?: (?:[A-Z0-9][\w'’.&-]*|of|the|and|de|la|von|van))*"  # Latin names
    rf"|{_SURNAME}[\u4e00-\u9fff]{{2}}"
    rf"|[\u4e00-\u9fff]{{1,9}}(?:{_PLACE})"
)


def answer_type(answer: str) -> AnswerType:
    """Classify an answer by its form: `date`, `number` (with or without unit), `name` or `other`.

    >>> [answer_type(text) for text in ("民國八十年", "３，０００公尺", "《紅樓夢》", "因為下雨")]
    ['date', 'number', 'name', 'other']

    A heuristic: regular expressions over the answer alone, after NFKC normalisation. A four-digit number is a year;
    「三年」 is a number. A name has title marks or a middle dot, is capitalised Latin, has three
    characters and begins with a frequent surname, or ends as places and institutions do. Personal names of two
    characters are `other`.
    """
    text = unicodedata.normalize("NFKC", answer).strip().replace(" 年", "年")
    if _DATE.fullmatch(text):
        return "date"
    if _NUMBER.fullmatch(text):
        return "number"
    return "name" if _NAME.fullmatch(text) else "other"


def count_kinds(found: Sequence[Verdict], kinds: Sequence[Kind] = tuple(KINDS)) -> dict[Kind, int]:
    """Count the answers of each of `kinds`."""
    return {kind: sum(verdict.kind == kind for verdict in found) for kind in kinds}
