"""Hold small corpora in the layouts in which Chinese and English ones are published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Text = list[Any]  # of C3: its lines, its questions and its id

DUREADER: dict[str, Any] = {  # all paragraphs of a file lie in one article without a title
    "data": [
        {
            "title": "",
            "paragraphs": [
                {
                    "context": f"第{n}天的氣溫是{n}度，比前一天低。",
                    "qas": [
                        {"question": "氣溫是多少", "id": f"q{n}", "answers": [{"text": f"{n}度", "answer_start": 7}]}
                    ],
                }
                for n in range(3)
            ],
        }
    ]
}
SQUAD_2: dict[str, Any] = {
    "version": "v2.0",
    "data": [
        {
            "title": "湖",
            "paragraphs": [
                {
                    "context": "日月潭在南投縣。",
                    "qas": [
                        {
                            "id": "s0",
                            "question": "什麼在南投縣？",
                            "answers": [{"text": "日月潭", "answer_start": 0}],
                            "is_impossible": False,
                        },
                        {
                            "id": "s1",
                            "question": "玉山在哪？",
                            "answers": [],
                            "plausible_answers": [{"text": "南投縣", "answer_start": 4}],
                            "is_impossible": True,
                        },
                    ],
                },
                {
                    "context": "淡水在新北市。",
                    "qas": [
                        {
                            "id": "s2",
                            "question": "淡水在哪？",
                            "answers": [{"text": "新北市", "answer_start": 3}],
                            "is_impossible": False,
                        }
                    ],
                },
            ],
        }
    ],
}


def cmrc(prefix: str, placeholder: str = "") -> list[dict[str, Any]]:
    """Return CMRC 2018's flat list; with a placeholder, that and a number instead of three answers."""
    return [
        {
            "context_id": f"{prefix}{n}",
            "context_text": f"{place}很有名，{prefix}。",
            "title": place,
            "qas": [
                {
                    "query_text": "什麼有名？",
                    "query_id": f"{prefix}{n}",
                    "answers": [f"{placeholder}{m}" for m in range(1, 4)] if placeholder else [place] * 3,
                }
            ],
        }
        for n, place in enumerate(["日月潭", "阿里山"])
    ]


def cmrc_tree(prefix: str, placeholder: str = "") -> dict[str, Any]:
    """Return CMRC 2018 in SQuAD's layout, as CLUE publishes it."""
    return {
        "version": "v1.0",
        "data": [
            {
                "title": paragraph["title"],
                "id": paragraph["context_id"],
                "paragraphs": [
                    {
                        "id": paragraph["context_id"],
                        "context": paragraph["context_text"],
                        "qas": [
                            {
                                "id": asked["query_id"],
                                "question": asked["query_text"],
                                "answers": [
                                    {"text": text, "answer_start": -1 if placeholder else 0}
                                    for text in asked["answers"]
                                ],
                            }
                            for asked in paragraph["qas"]
                        ],
                    }
                ],
            }
            for paragraph in cmrc(prefix, placeholder)
        ],
    }


C3_D: list[Text] = [
    [
        ["男：請問，去學校怎麼走？", "女：往前走，公園旁邊就是。"],
        [
            {"question": "學校在哪裡？", "choice": ["公園旁邊", "車站", "醫院"], "answer": "公園旁邊"},
            {"question": "誰問路？", "choice": ["男的", "女的"], "answer": "男的"},
        ],
        "d-1",
    ]
]
C3_M: list[Text] = [
    [
        ["有些動物的感覺比人的靈敏，能提前知道災害。"],
        [
            {
                "question": "動物的感覺怎麼樣？",
                "choice": ["沒有人的靈敏", "和人的差不多", "和人的一樣好", "比人的靈敏"],
                "answer": "比人的靈敏",
            }
        ],
        "m-1",
    ]
]
C3_TEST: list[Text] = [
    [["今天下雨。"], [{"question": "天氣好嗎？", "choice": ["好", "不好"], "answer": "不好"}], "m-1"]
]


def hub_c3(texts: Sequence[Text], answers: bool = True) -> list[dict[str, Any]]:
    """Return texts with the columns of the hub's `c3`, where a list of objects is an object of lists."""
    return [
        {
            "documents": lines,
            "document_id": key,
            "questions": {
                "question": [asked["question"] for asked in questions],
                "answer": [asked["answer"] if answers else "" for asked in questions],
                "choice": [asked["choice"] for asked in questions],
            },
        }
        for lines, questions, key in texts
    ]


def hub_clue_c3(texts: Sequence[Text], answers: bool = True) -> list[dict[str, Any]]:
    """Return texts with the columns of `clue`, configuration `c3`: the id is the number of the text."""
    return [
        {
            "id": number,
            "context": lines,
            "question": asked["question"],
            "choice": asked["choice"],
            "answer": asked["answer"] if answers else "",
        }
        for number, (lines, questions, _) in enumerate(texts)
        for asked in questions
    ]
