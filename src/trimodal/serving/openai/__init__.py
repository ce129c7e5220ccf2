"""OpenAI's dialect, as its client speaks it: embeddings, chat, transcriptions, models. Without sockets: objects of JSON in, objects of JSON out."""
