#define _GNU_SOURCE
#include "levels.h"
#include <string.h>
#include <stdlib.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#ifdef __x86_64__
#include <cpuid.h>
#endif
#if defined __aarch64__ && defined __linux__
#include <sys/auxv.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

extern const kernels kernels_baseline, kernels_avx2, kernels_avx512_vnni, kernels_avx512_bf16, kernels_amx,
    kernels_neon, kernels_neon_i8mm;

typedef struct cpu {
  bool avx2, vnni, bf16, amx; /* each with what its kernels are compiled with, and the system keeping the registers */
  bool fast_bf16;
  bool dot_product, i8mm;
} cpu;

#ifdef __x86_64__

typedef struct leaf { unsigned a, b, c, d; } leaf;

static leaf cpuid(unsigned number, unsigned part) {
  leaf l = {0, 0, 0, 0};
  __get_cpuid_count(number, part, &l.a, &l.b, &l.c, &l.d);
  return l;
}

static bool bits(unsigned word, unsigned wanted) { return (word & wanted) == wanted; }

static unsigned kept_registers(void) {
  if (!bits(cpuid(1, 0).c, 1u << 27)) return 0; /* OSXSAVE */
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

/* Linux gives a process the tiles' 8 KiB of state only when it asks; a sandbox may refuse. Asking again does no
 * harm. */
static bool may_use_tiles(void) {
#if defined __linux__ && defined SYS_arch_prctl
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
  return false;
#endif
}

static cpu detect(void) {
  cpu c = {.avx2 = false};
  unsigned kept = kept_registers();
  leaf one = cpuid(1, 0), seven = cpuid(7, 0), seven1 = cpuid(7, 1);
  bool ymm = bits(kept, 0x6), zmm = bits(kept, 0xe6), tiles = bits(kept, 0x60000);
  c.avx2 = ymm && bits(one.c, 1u << 12 | 1u << 29)              /* FMA, F16C */
           && bits(seven.b, 1u << 3 | 1u << 5 | 1u << 8);       /* BMI1, AVX2, BMI2 */
  c.vnni = c.avx2 && zmm && bits(seven.b, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* F, DQ, BW, VL */
           && bits(seven.c, 1u << 1 | 1u << 11);                /* VBMI, VNNI */
  c.bf16 = c.vnni && bits(seven1.a, 1u << 5);
  c.amx = c.bf16 && tiles && bits(seven.d, 1u << 22 | 1u << 24 | 1u << 25) /* BF16, TILE, INT8 */ && may_use_tiles();
  leaf vendor = cpuid(0, 0);
  c.fast_bf16 = vendor.b == 0x68747541; /* "Auth"enticAMD: its vdpbf16ps keeps up, Intel's is slower than float32 */
  return c;
}

#elif defined __aarch64__

static cpu detect(void) {
  cpu c = {.avx2 = false};
#if defined __linux__
  unsigned long one = getauxval(AT_HWCAP), two = getauxval(AT_HWCAP2);
  c.dot_product = (one >> 20 & 1) != 0 && (one >> 10 & 1) != 0; /* ASIMDDP, ASIMDHP */
  c.i8mm = c.dot_product && (two >> 13 & 1) != 0 && (two >> 14 & 1) != 0; /* I8MM, BF16 */
#elif defined __APPLE__
  static const char *const names[] = {"hw.optional.arm.FEAT_DotProd", "hw.optional.arm.FEAT_I8MM",
                                      "hw.optional.arm.FEAT_BF16"};
  int has[3] = {0, 0, 0};
  for (int i = 0; i < 3; i++) {
    size_t size = sizeof has[i];
    if (sysctlbyname(names[i], &has[i], &size, NULL, 0) != 0) has[i] = 0;
  }
  c.dot_product = has[0] != 0;
  c.i8mm = has[0] != 0 && has[1] != 0 && has[2] != 0;
#endif
  return c;
}

#else

static cpu detect(void) { return (cpu){.avx2 = false}; }

#endif

/*
 * The AVX-512 and AMX kernels give the right numbers under emulation, but have not yet run on a CPU that has them: until
 * then they are offered only to those who ask for one by name.
 */
static bool tries_new_levels(void) {
  const char *asked = getenv("TUTTI_CPU");
  return asked != NULL && (strncmp(asked, "avx512", 6) == 0 || strcmp(asked, "amx") == 0);
}

int find_levels(const kernels *levels[MAX_LEVELS]) {
  cpu c = detect();
  int n = 0;
  if (!tries_new_levels()) c.vnni = c.bf16 = c.amx = false;
#ifdef TUTTI_HAS_amx
  if (c.amx) levels[n++] = &kernels_amx;
#endif
#ifdef TUTTI_HAS_avx512_bf16
  if (c.bf16 && c.fast_bf16) levels[n++] = &kernels_avx512_bf16;
#endif
#ifdef TUTTI_HAS_avx512_vnni
  if (c.vnni) levels[n++] = &kernels_avx512_vnni;
#endif
#ifdef TUTTI_HAS_avx512_bf16
  if (c.bf16 && !c.fast_bf16) levels[n++] = &kernels_avx512_bf16;
#endif
#ifdef TUTTI_HAS_avx2
  if (c.avx2) levels[n++] = &kernels_avx2;
#endif
#ifdef TUTTI_HAS_neon_i8mm
  if (c.i8mm) levels[n++] = &kernels_neon_i8mm;
#endif
#ifdef TUTTI_HAS_neon
  if (c.dot_product) levels[n++] = &kernels_neon;
#endif
  levels[n++] = &kernels_baseline;
  return n;
}
