"""Words that replies are read by, in the languages that teachers write in."""

from __future__ import annotations

import re

QUESTION = (
    *("q", "questions?", "preguntas?", "fragen?", "domand[ae]", "perguntas?", "quest[aã]o", "quest[õo]es", "vragen"),
    *("vraag", "fr[aå]g(?:a|or)", "sp[øo]rgsm[åa]l", "sp[øo]rsm[åa]l", "kysymys", "pytani[ae]", "ot[aá]zka"),
    *("k[eé]rd[eé]s", "[iî]ntrebare", "soru", "sual", "c[aâ]u(?:\\s+h[oỏ]i)?", "pertanyaan", "soalan", "swali"),
    *("вопрос", "питання", "въпрос", "питање", "pitanje", "ερώτη(?:ση|μα)", "հարց", "კითხვა", "ጥያቄ", "שאלה"),
    *("(?:ال)?سؤال", "پرسش", "سوال", "प्रश्न", "सवाल", "প্রশ্ন", "கேள்வி", "ప్రశ్న", "ಪ್ರಶ್ನೆ", "ചോദ്യം"),
    *("คำถาม(?:ที่|ข้อที่)?", "ข้อ(?:ที่)?", "질문", "문제", "문항", "問題?", "質問", "設問", "问题?", "提问", "题目", "題目"),
)
"""What a numbered question is called, as regular expressions."""
ANSWER = (
    *("(?:the )?(?:final |short )?answer", "antwort", "r[eé]ponse(?: finale)?", "respuesta(?: final)?", "risposta"),
    *("resposta", "antwoord", "svar", "vastaus", "odpowiedź", "odpov[eě]ď", "válasz", "răspuns", "cevap", "yanıt"),
    *("jawaban", "trả lời", "đáp án", "απάντηση", "ответ", "відповідь", "תשובה", "(?:ال)?إجابة", "(?:ال)?جواب", "پاسخ"),
    *("उत्तर", "উত্তর", "คำตอบ", "정답", "답변", "대답", "답", "答案", "回答", "答え", "解答", "答"),
)
"""What an answer is called, as regular expressions."""
YES = {
    *("yes", "oui", "si", "sí", "sì", "sim", "ja", "jawohl", "igen", "ano", "tak", "evet", "ya", "kyllä", "ναι", "да"),
    *("так", "כן", "نعم", "بله", "हाँ", "हां", "হ্যাঁ", "ใช่", "có", "はい", "是", "是的", "对", "對", "예", "네"),
}
"""A verdict that begins or ends with one of these says that the answer is right."""
DECLINED = re.compile(
    "無法回答|无法回答|不可回答|回答不能|回答でき(?:ない|ません)|答えられ(?:ない|ません)|不明"
    "|답할 수 없|알 수 없|답변 불가"
    "|невозможно ответить|нет ответа|не указано|неможливо відповісти|sin respuesta|no se puede responder"
    "|sans réponse|impossible de répondre|nicht beantwortbar|unbeantwortbar|senza risposta|sem resposta"
    "|لا يمكن الإجابة|غير قابل للإجابة|cevaplanamaz|không thể trả lời|ตอบไม่ได้|ไม่สามารถตอบ|उत्तर नहीं",
    re.IGNORECASE,
)
"""An answer that begins so says that the text does not tell."""
UNMARKED = re.compile(
    r"""(?:か|かな|のか|でしょう)[。．.]?$
      | ^(?=.*[\u3040-\u30ff]).*(?:何|誰|どこ|どの|どれ|どう|どんな|いつ|いくつ|いくら|なぜ|どちら)
      | ^(?!.*[\u3040-\u30ff]).*(?:什么|什麼|谁|誰|哪|多少|几[个次年天点名]|幾|怎|为何|為何|是否|何[時时處处地])
      | ^(?=.*[\u4e00-\u9fff]).*[吗嗎呢][。．.]?$
      | (?:니까|나요|가요|까요|는가|은가|인가|런지|는지요|을까|일까)[.。]?$
      | 무엇|누구|어디|언제|얼마|어떻게|어느|어떤
      | อะไร|ไหน|เท่าไ[รห]|เท่าใด|กี่|ใคร|เมื่อไ[รห]|เมื่อใด|อย่างไร|ยังไง|ทำไม|ไหม|มั้ย|หรือไม่|หรือเปล่า|ใด
      | ຫຍັງ|ໃຜ|ໃສ|ໃດ|ຈັກ|ບໍ$
      | តើ|អ្វី|អ្នកណា|ប៉ុន្មាន|យ៉ាងណា
      | (?:လဲ|လား|နည်း)\s*။?$
      | (?:^|\s)(?:क्या|कौन|कब|कहाँ|कहां|क्यों|कैसे|कितन[ेाी]|किस|किन)(?=\s).*।$
      | (?:^|\s)(?:কী|কি|কে|কখন|কোথায়|কেন|কীভাবে|কত|কোন)(?=\s).*।$
    """,
    re.VERBOSE,
)
"""Questions in languages that often write no question mark: Japanese, Chinese, Korean, Thai, Lao, Khmer,
Burmese, Hindi, Bengali."""
