# 4 KiB pages in long mode: accessed and dirty bits, write protection, no-execute, INVLPG after a change.
# mode: long
# expect: 0x23 0x63 0x0e00000e 0x3 0x600000 0x0e00000e 0x11 0x600000 0xaa 0xbb
.include "long.inc"
main:
    # 0x600000: page table at 0x30000; entry 3 of the page directory.
    movq $0x100003, 0x30000
    movq $0x30003, 0x12018
    movq %cr3, %rax
    movq %rax, %cr3
    movb 0x600000, %al
    movl 0x30000, %eax
    andl $0x7f, %eax
    outl %eax, $0x80
    movb $1, 0x600000
    movl 0x30000, %eax
    andl $0x7f, %eax
    outl %eax, $0x80
    # Read-only.
    movq $0x100001, 0x30000
    invlpg 0x600000
    catch 1f
    movb $1, 0x600000
1:  # No execute.
    movq $0x100003, %rax
    btsq $63, %rax
    movq %rax, 0x30000
    invlpg 0x600000
    movb $0xc3, 0x600000
    catch 2f
    movl $0x600000, %eax
    callq *%rax
2:  # Another frame after INVLPG.
    movb $0xaa, 0x101000
    movb $0xbb, 0x102000
    movq $0x101003, 0x30000
    invlpg 0x600000
    movzbl 0x600000, %eax
    outl %eax, $0x80
    movq $0x102003, 0x30000
    invlpg 0x600000
    movzbl 0x600000, %eax
    outl %eax, $0x80
    finish
