/** Keeps answers in the order of their questions: an answer is dropped if that of a later question came first. */
export class InOrder {
  private asked = 0;
  private taken = 0;

  /** Call this when you ask. When the answer arrives, call the result: it says whether to use the answer. */
  ask(): () => boolean {
    const mine = ++this.asked;
    return () => {
      if (mine < this.taken) return false;
      this.taken = mine;
      return true;
    };
  }
}
