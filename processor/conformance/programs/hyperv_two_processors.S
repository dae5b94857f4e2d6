# The second VP has its own index and SynIC: a message to it lands in its page and interrupts it, not the first.
# mode: long
# vps: 2
# hyperv: yes
# expect: 0x0 0x1 0x0 0x7 0xee0201 0x0 0x99
.include "hyperv.inc"
main:
    movq $ap, %rsi
    movl $0x9000, %edi
    movl $ap_end - ap, %ecx
    rep movsb
    movl $0xfee00000, %ebx
    movl $0x1ff, 0xf0(%rbx)
    movl $0x01000000, 0x310(%rbx)
    movl $0x4500, 0x300(%rbx)
    movl $0x01000000, 0x310(%rbx)
    movl $0x4609, 0x300(%rbx)
    report_msr 0x40000002
1:  pause
    cmpl $0, 0x6000
    je 1b
    # Its index, which it has left for us.
    report 0x6004
    enable_hypercalls
    enable_synic 0xf3
    post 7, 1, 2, 0xee
2:  pause
    cmpl $2, 0x6000
    jne 2b
    report 0x207200
    report 0x207210
    report message_page + 0x200
    report $0x99
    finish
# Real mode at 0x9000: index, message page at 0x207000, SINT 2 with vector 0x40, then wait for it.
.code16
ap: xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x5000, %sp
    movl $0x40000002, %ecx
    rdmsr
    movl %eax, 0x6004
    # Vector 0x40 of the table at 0, where reset has put it.
    xorw %ax, %ax
    movw $(0x9000 + ap_interrupt - ap), 0x100
    movw %ax, 0x102
    lidtl 0x9000 + ap_table - ap
    # The local APIC on, reached with a 4 GiB limit: unreal mode.
    lgdtl 0x9000 + ap_gdt - ap
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    movw $8, %bx
    movw %bx, %ds
    andb $0xfe, %al
    movl %eax, %cr0
    movl $0xfee000f0, %ebx
    movl $0x1ff, (%ebx)
    xorw %ax, %ax
    movw %ax, %ds
    movl $0x40000083, %ecx
    movl $0x207001, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x40000092, %ecx
    movl $0x40, %eax
    wrmsr
    movl $0x40000080, %ecx
    movl $1, %eax
    wrmsr
    movl $1, 0x6000
    sti
1:  hlt
    jmp 1b
ap_interrupt:
    movl $2, 0x6000
    iretw
    .balign 8
ap_table: .word 0x3ff
    .long 0
ap_gdt: .word 15
    .long 0x9000 + ap_descriptors - ap
    .balign 8
ap_descriptors: .quad 0, 0x00cf93000000ffff
ap_end:
