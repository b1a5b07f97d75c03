"""Operations on conversations, whichever backend they live in."""
