/* Linux lets a process use AMX tiles only when it asks: included before a harness that is compiled for them. */
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((constructor)) static void ask_for_tiles(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
  syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA);
}
