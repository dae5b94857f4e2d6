# A store across a page boundary that faults on the second page has written nothing to the first.
# mode: long
# needs: stores that fault as a whole
# expect: 0x0e00000e 0x2 0x601000 0x0
.include "long.inc"
main:
    # 0x600000 is there, 0x601000 is not.
    movq $0x100003, 0x30000
    movq $0, 0x30008
    movq $0x30003, 0x12018
    movq %cr3, %rax
    movq %rax, %cr3
    movl $0, 0x100ffc
    catch 1f
    movl $-1, 0x600ffe
1:  movl 0x600ffc, %eax
    outl %eax, $0x80
    finish
