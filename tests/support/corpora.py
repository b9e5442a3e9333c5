"""Hold one question in every published corpus format."""

from __future__ import annotations

TEXT = "日月潭在南投縣。"
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "日月潭",
            "paragraphs": [
                {
                    "context": TEXT,
                    "qas": [{"id": "a", "question": "在哪？", "answers": [{"text": "南投縣", "answer_start": 4}]}],
                }
            ],
        }
    ],
}
DRCD = {
    "version": "1.3",
    "data": [
        {
            "title": "日月潭",
            "id": "2128",
            "paragraphs": [
                {
                    "context": TEXT,
                    "id": "2128-2",
                    "qas": [
                        {
                            "id": "a",
                            "question": "在哪？",
                            "answers": [{"id": "1", "text": "南投縣", "answer_start": 4}],
                        }
                    ],
                }
            ],
        }
    ],
}
CMRC = [
    {
        "context_id": "TRIAL_1",
        "context_text": TEXT,
        "title": "日月潭",
        "qas": [{"query_text": "在哪？", "query_id": "a", "answers": ["南投縣"]}],
    }
]
ROWS = [
    {
        "id": "a",
        "title": "日月潭",
        "context": TEXT,
        "question": "在哪？",
        "answers": {"text": ["南投縣"], "answer_start": [4]},
    }
]
