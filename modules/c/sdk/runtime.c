// All of a C library that a filter needs, so that it needs none: with wasi-libc a component is larger and has to be linked
// for another target.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 64 * 1024, ALIGN = 16 };

// Set by the linker behind stack and data.
extern unsigned char __heap_base;

// An instance lives for one call and its memory goes with it: allocating moves a pointer, and freeing does nothing. In
// front of every block stands its size.
static uintptr_t next;
static uintptr_t end;

// Takes so many bytes at the next address; NULL where memory is used up.
static void *take(size_t size) {
  if (next == 0) {
    next = ((uintptr_t)&__heap_base + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1);
    end = __builtin_wasm_memory_size(0) * PAGE;
  }
  if (size > SIZE_MAX - 2 * ALIGN) {
    return NULL;
  }
  size_t whole = ALIGN + ((size + ALIGN - 1) & ~(size_t)(ALIGN - 1));
  if (whole > end - next) {
    size_t pages = (whole - (end - next) + PAGE - 1) / PAGE;
    if (__builtin_wasm_memory_grow(0, pages) == SIZE_MAX) {
      return NULL;
    }
    end += pages * PAGE;
  }
  *(size_t *)next = size;
  void *block = (void *)(next + ALIGN);
  next += whole;
  return block;
}

void *malloc(size_t size) { return take(size); }

void *calloc(size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    return NULL;
  }
  // Fresh memory is zero, and no memory is used twice.
  return take(bytes);
}

void *realloc(void *block, size_t size) {
  if (block == NULL) {
    return take(size);
  }
  size_t have = *(size_t *)((uintptr_t)block - ALIGN);
  if (size <= have) {
    return block;
  }
  void *moved = take(size);
  if (moved != NULL) {
    memcpy(moved, block, have);
  }
  return moved;
}

void free(void *block) { (void)block; }

_Noreturn void abort(void) { __builtin_trap(); }

void *memcpy(void *restrict to, const void *restrict from, size_t size) { return memmove(to, from, size); }

// In words where both lie on them, which columns always do.
void *memmove(void *to, const void *from, size_t size) {
  unsigned char *target = to;
  const unsigned char *source = from;
  if (target == source) {
    return to;
  }
  if (target < source || target >= source + size) {
    if ((((uintptr_t)target | (uintptr_t)source) & 7) == 0) {
      for (; size >= 8; size -= 8, target += 8, source += 8) {
        *(uint64_t *)target = *(const uint64_t *)source;
      }
    }
    while (size-- > 0) {
      *target++ = *source++;
    }
  } else {
    while (size-- > 0) {
      target[size] = source[size];
    }
  }
  return to;
}

void *memset(void *to, int byte, size_t size) {
  unsigned char *target = to;
  while (size-- > 0) {
    *target++ = (unsigned char)byte;
  }
  return to;
}

int memcmp(const void *left, const void *right, size_t size) {
  const unsigned char *a = left, *b = right;
  for (; size > 0; size--, a++, b++) {
    if (*a != *b) {
      return *a < *b ? -1 : 1;
    }
  }
  return 0;
}

size_t strlen(const char *text) {
  size_t length = 0;
  while (text[length] != 0) {
    length++;
  }
  return length;
}
