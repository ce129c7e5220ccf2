"""OpenAI's dialect, as its client speaks it: embeddings, chat, transcriptions, models. No sockets: objects of JSON in and out."""
